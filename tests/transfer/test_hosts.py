"""Two hosts as they are run: ``offbragg up`` at both ends, and the far one works as if local."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from far_host import Far, free_port
from runs import MeasuredRun, counts_of, wait_until
from typer.testing import CliRunner

from offbragg.beamline.config import load
from offbragg.cli.app import app
from offbragg.errors import ConfigError
from offbragg.files.volume_file import VolumeFile, read_volume
from offbragg.host.services import chosen, configured
from offbragg.recovery.verify import verify

PATHS = ("experiment", "frames", "journal", "catalog", "log")


def beamline(folder: Path, *more: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "beamline.toml"
    paths = "".join(f'{name} = "{name}"\n' for name in PATHS)
    file.write_text(
        f'beamline_id = "{folder.name}"\n[catalog]\nport = {free_port()}\n[paths]\n{paths}'
        + "\n".join(more)
    )
    return file


@pytest.fixture
def hosts(tmp_path: Path) -> tuple[Path, Path]:
    """The ``beamline.toml`` of the near and of the far host."""
    keys = Far(tmp_path)
    port = free_port()
    near = beamline(tmp_path / "near", "[send]", f'to = "127.0.0.1:{port}"', 'key = "../near.key"',
                    f'receiver = "{keys.key.public}"')  # fmt: skip
    far = beamline(tmp_path / "far", "[receive]", f'listen = "127.0.0.1:{port}"',
                   'key = "../receiver.key"', 'senders = "../senders"')  # fmt: skip
    return near, far


def up(file: Path, only: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "offbragg", "up", "--only", only, "--beamline", str(file)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def test_the_far_host_stacks_what_the_near_one_does(hosts, tmp_path: Path):
    near, far = hosts
    run = MeasuredRun(tmp_path / "near", n_frames=6).begin()
    processes = [up(far, "receive,stack"), up(near, "stack,send")]
    try:
        run.write(0, 1, 2)
        run.announce(3)
        wait_until(lambda: list((tmp_path / "far/experiment").rglob("f*.h5")), 90, "a far file")
        run.write(3, 4, 5)
        run.announce(6)
        run.monitor_counted(list(range(6)))
        run.end()
        files = {side: _finished(tmp_path / side / "experiment") for side in ("near", "far")}
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(60)

    for side, file in files.items():
        verdict = verify(file, journal=tmp_path / side / "journal")
        assert verdict.ok, (side, verdict.problems)
        assert verdict.frames["stored"] == 6
    assert files["near"].relative_to(tmp_path / "near") == files["far"].relative_to(
        tmp_path / "far"
    )
    chunks = {side: _stored(file) for side, file in files.items()}
    assert chunks["near"] == chunks["far"]


def _finished(experiment: Path) -> Path:
    return wait_until(lambda: list(experiment.rglob("f*.h5.digest")), 90)[0].with_suffix("")


def _stored(file: Path) -> list[bytes]:
    """Return the chunks as they are on the disk, and the columns of the frames."""
    with h5py.File(file, locking=False) as content:
        data: Any = content["/entry/data/data"]
        chunks = [data.id.read_direct_chunk((n, 0, 0))[1] for n in range(6)]
        rows: Any = content["/entry/frames"]
        columns = [
            np.asarray(rows[name]).tobytes()
            for name in ("number", "angle", "time", "monitor", "temperature", "crc64")
        ]
    return chunks + columns


def test_services_run_where_their_tables_are(hosts):
    near, far = hosts
    names = {
        file: [each.name for each in configured(chosen(None), load(file), named=False)]
        for file in hosts
    }

    assert names == {near: ["stack", "serve", "live", "send"],
                     far: ["stack", "serve", "live", "receive"]}  # fmt: skip
    with pytest.raises(ConfigError, match=r"there is no \[receive\] in"):
        configured(chosen(["receive"]), load(near), named=True)


def test_a_receiver_fills_the_folders_of_its_beamline(hosts, tmp_path: Path):
    _, far = hosts
    assert load(far).receiving_folder() == tmp_path / "far"
    far.write_text(far.read_text().replace('frames = "frames"', 'frames = "images"'))

    with pytest.raises(ConfigError, match="must be the folders frames and journal of one folder"):
        load(far)


@pytest.mark.parametrize("command", ["send", "receive"])
def test_what_is_needed_is_named(command: str, tmp_path: Path, monkeypatch):
    monkeypatch.delenv("OFFBRAGG_BEAMLINE", raising=False)
    without = beamline(tmp_path / "none")
    for arguments in ([command], [command, "--beamline", str(without)]):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 2
        assert f"a table [{command}]" in " ".join(done.output.replace("│", " ").split())


def test_the_status_says_what_waits(hosts, tmp_path: Path):
    near, _ = hosts
    run = MeasuredRun(tmp_path / "near", n_frames=2).begin()
    run.write(0, 1)
    run.announce(2)
    run.end()
    sender = up(near, "send")
    status = [sys.executable, "-m", "offbragg", "status", "--beamline", str(near), "--json"]
    try:
        wait_until(lambda: list((tmp_path / "near/journal").glob(".send.*.json")), 60)
        wait_until(lambda: b'"frames": 2' in _report(tmp_path / "near/journal"), 60)
        done = subprocess.run(status, capture_output=True, text=True, env={**os.environ})
    finally:
        sender.send_signal(signal.SIGTERM)
        sender.wait(60)
    (sending,) = json.loads(done.stdout)["sending"]
    assert (sending["frames"], sending["runs"], sending["connected"]) == (2, 1, False)


def _report(journal: Path) -> bytes:
    return b"".join(path.read_bytes() for path in journal.glob(".send.*.json"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_stack_live_and_catalog_work_on_the_far_host(hosts, tmp_path: Path):
    """Volume and frames of the far host are those of the near one; the frames by HTTP."""
    near, far = hosts
    run = MeasuredRun(tmp_path / "near", n_frames=40).begin()
    processes = [up(far, "receive,stack,serve,live"), up(near, "stack,live,send")]
    try:
        for n in range(40):
            run.write(n)
            run.announce(n + 1)
        run.monitor_counted(list(range(40)))
        run.end()
        volumes = {side: _closed(tmp_path / side / "experiment") for side in ("near", "far")}
        catalog = load(far).connect_catalog(timeout=120)
        wait_until(lambda: run.uid in catalog, 120, "the run is in the far catalog")
        frames = catalog[run.uid]["primary"]["pilatus_image"]
        wait_until(lambda: len(frames.read(slice=np.s_[:, 0, 0])) == 40, 60)
        shown = np.asarray(frames.read(slice=np.s_[17, 3:9]))
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(60)

    np.testing.assert_array_equal(shown, counts_of(17)[3:9])
    ours, theirs = (read_volume(volumes[side]) for side in ("near", "far"))
    assert ours.grid == theirs.grid
    assert np.count_nonzero(ours.weight) > 0
    np.testing.assert_array_equal(ours.counts, theirs.counts)
    np.testing.assert_array_equal(ours.weight, theirs.weight)


def _closed(experiment: Path) -> Path:
    def closed() -> list[Path]:
        found = list(experiment.rglob("live-f1.h5"))
        for path in found:
            with VolumeFile(path) as file:
                if "inputs" not in file.record:  # it still grows
                    return []
        return found

    return wait_until(closed, 180, f"a volume below {experiment}")[0]
