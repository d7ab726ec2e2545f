"""Sums on a Dask cluster are those of one process, bit for bit, whoever dies meanwhile."""

from __future__ import annotations

import json
import os
import pickle
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measured import AS_SIMULATED, Measured
from typer.testing import CliRunner

from offbragg.cli.app import app
from offbragg.errors import ReductionError
from offbragg.files.volume_file import VolumeFile
from offbragg.reduction.accumulator import Accumulator
from offbragg.reduction.binning import Oversample
from offbragg.workflows import dask as on_dask
from offbragg.workflows.choices import Choices
from offbragg.workflows.reduce import build_record, reduce_to_file
from offbragg.workflows.sums import sum_record

CHOICES = Choices(step=0.1, corrections=AS_SIMULATED)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two workers of one thread each, processes on 127.0.0.1."""
    pytest.importorskip("distributed", reason="the extra [dask] is not installed")
    import dask
    from distributed import LocalCluster

    # how long a worker is looked for that was killed
    quick = dask.config.set({"distributed.comm.timeouts.connect": "3s"})
    with quick, LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1",
        dashboard_address="127.0.0.1:0", memory_limit=0, silence_logs=40,
    ) as made:  # fmt: skip
        yield made


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("dask")
    made = [
        Measured(n_frames=20, step=1.0, series=1),
        Measured(n_frames=9, step=1.0, first=20.0, series=2),
    ]
    return [each.write(folder / f"c{n}", without=[3]) for n, each in enumerate(made)]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(on_dask, "_LEAST", 3)


@pytest.fixture
def submitted(cluster, monkeypatch) -> list[str]:
    """What was submitted to the cluster, by name."""
    from distributed import Client

    names: list[str] = []
    submit = Client.submit

    def noted(client: Any, work: Any, *more: Any, **how: Any) -> Any:
        names.append(work.__name__)
        return submit(client, work, *more, **how)

    monkeypatch.setattr(Client, "submit", noted)
    return names


def record_of(sweeps: list[Path], **more: Any):
    return build_record(sweeps, replace(CHOICES, **more), say=lambda text: None)


def same(one: Accumulator, other: Accumulator) -> bool:
    return one.names == other.names and all(
        np.array_equal(a.changed, b.changed)
        and np.array_equal(a.low, b.low)
        and np.array_equal(a.high, b.high)
        for a, b in ((one.sums, other.sums), (one.spread, other.spread), (one.air, other.air))
        if a is not None and b is not None
    )


def test_parts_merge_to_the_sums_of_the_whole_and_travel_as_their_bricks(sweeps):
    record = record_of(sweeps, oversample=Oversample(1, 2))
    whole = sum_record(record)
    assert isinstance(whole, Accumulator)
    parts = on_dask.divide(record, 2)

    merged = Accumulator(whole.grid, whole.exponent, parts=whole.parts, sample=whole.sample)
    for part in reversed(parts):
        packed = pickle.dumps(on_dask.sum_part(pickle.loads(pickle.dumps(part)), None, version()))
        merged.merge(pickle.loads(packed))
        assert len(packed) < 4 * whole.touched().size * 32**3 * 2 * 4 + 10_000

    assert len(parts) > 4
    assert sum(part.frames for part in parts) == 27
    assert same(merged, whole)


def test_a_task_is_bounded_whatever_the_length_of_a_sweep(sweeps, monkeypatch):
    monkeypatch.setattr(on_dask, "_MOST", 7)

    parts = on_dask.divide(record_of(sweeps), 1)

    assert max(part.end - part.begin for part in parts) <= 7
    assert sum(part.frames for part in parts) == 27


def version() -> str:
    from importlib.metadata import version

    return version("offbragg")


@pytest.mark.parametrize("more", [{}, {"symmetry": "m-3m"}, {"symmetry": "m-3m", "fold": True}])
def test_a_cluster_makes_the_file_of_one_process(cluster, submitted, sweeps, tmp_path, more):
    done: list[tuple[int, int]] = []
    choices = replace(CHOICES, **more)
    reduce_to_file(sweeps, choices, tmp_path / "one.h5", say=lambda text: None)

    reduce_to_file(
        sweeps, choices, tmp_path / "two.h5", scheduler=cluster.scheduler_address,
        progress=lambda n, total: done.append((n, total)), say=lambda text: None,
    )  # fmt: skip

    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()
    assert done[-1] == (27, 27)
    assert submitted.count("sum_part") == len(done) > 4
    assert submitted.count("prepare") == len(sweeps)  # where pixels look: once for each sweep


@pytest.mark.parametrize("earlier", [False, True])
def test_with_a_background_a_task_is_a_whole_sweep_in_records_of_earlier_versions_only(
    cluster, sweeps, tmp_path, earlier
):
    air = Measured(n_frames=4, step=1.0, crystal_in=False, series=3).write(tmp_path / "air")
    record = record_of(sweeps, background=str(air))
    if earlier:
        record = replace(record, background_exponents=None)
    alone = sum_record(record)

    together = on_dask.sum_on_cluster(record, cluster.scheduler_address)

    assert (len(on_dask.divide(record, 2)) == len(sweeps)) == earlier
    assert isinstance(alone, Accumulator)
    assert isinstance(together, Accumulator)
    assert same(together, alone)


def test_a_worker_that_is_killed_costs_time_only(cluster, sweeps):
    from distributed import Client

    record = record_of(sweeps)
    alone = sum_record(record)
    with Client(cluster.scheduler_address, set_as_default=False) as client:
        pids = set(client.run(os.getpid).values())
    killed: list[int] = []

    def kill_one(done: int, total: int) -> None:
        if not killed and done < total / 2:
            killed.append(min(pids))
            os.kill(killed[0], signal.SIGKILL)

    together = on_dask.sum_on_cluster(record, cluster.scheduler_address, progress=kill_one)

    assert killed
    assert isinstance(alone, Accumulator)
    assert isinstance(together, Accumulator)
    assert same(together, alone)


def test_typed(cluster, sweeps, tmp_path):
    out = tmp_path / "v.h5"

    done = CliRunner().invoke(
        app, ["reduce", str(sweeps[0]), "--grid", "-2:1:0.1,-1:1:0.1,-2:1:0.1", "--out", str(out),
              "--scheduler", cluster.scheduler_address, "--json"], catch_exceptions=False,
    )  # fmt: skip

    (made,) = json.loads(done.output)["volumes"]
    with VolumeFile(out) as file:
        assert file.completeness == made["completeness"] > 0


def test_what_a_worker_cannot_do_is_an_error_here(cluster, sweeps, monkeypatch, tmp_path):
    record = record_of(sweeps)
    elsewhere = replace(record.inputs[0], file=str(tmp_path / "f1.h5"))
    with pytest.raises(ReductionError, match=r"on the Dask worker on .*f1\.h5 is not there"):
        on_dask.sum_on_cluster(replace(record, inputs=(elsewhere,)), cluster.scheduler_address)
    monkeypatch.setattr(on_dask, "version", lambda name: "0.0")
    with pytest.raises(ReductionError, match=r"has offbragg .*, this is 0\.0"):
        on_dask.sum_on_cluster(record, cluster.scheduler_address)


def test_where_no_scheduler_is(sweeps, monkeypatch):
    pytest.importorskip("distributed", reason="the extra [dask] is not installed")
    monkeypatch.setattr(on_dask, "CONNECT", 0.5)

    with pytest.raises(ReductionError, match="no Dask scheduler answers at tcp://127"):
        on_dask.sum_on_cluster(record_of(sweeps), "tcp://127.0.0.1:9")
    with pytest.raises(ReductionError, match="no Dask scheduler answers at nowhere"):
        on_dask.sum_on_cluster(record_of(sweeps), "nowhere")


def test_without_the_extra(sweeps, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)

    with pytest.raises(ReductionError, match=r"pip install 'offbragg\[dask\]'"):
        on_dask.sum_on_cluster(record_of(sweeps), "tcp://127.0.0.1:9")
