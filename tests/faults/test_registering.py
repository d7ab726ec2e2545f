"""The stacker is killed while it tells the catalog: the run is there once, and whole."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import h5py
import pytest
from faults.judge import judge, stored
from faults.served import Served, scan_file_of
from faults.stacking import calls_of_stacker, strace

pytestmark = strace


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    with Served.started(tmp_path_factory.mktemp("registered")) as beamline:
        beamline.measure()
        beamline.serve()
        assert beamline.stack().code == 0
        yield beamline


def killed(served: Served, point: str) -> float:
    """Kill a stacker that publishes, and start it again; gives the time to recover, s."""
    run = served.measure()
    ended = served.stack(inject=[point])
    assert ended.code in (0, -signal.SIGKILL), ended.output
    again = served.stack()
    assert again.code == 0, again.output

    path = scan_file_of(run)
    assert path is not None
    assert judge(path, run.sources, values=run.values, over=True) == []
    assert sorted(served.client) == sorted(run.uid for run in served.runs)
    node = served.client[run.uid]
    assert node.metadata["stop"]["offbragg"]["frames"]["stored"] == len(stored(path)) == 20
    assert node.metadata["stop"]["exit_status"] == "success"
    assert node["primary"]["pilatus_image"].shape[0] == 20
    with h5py.File(path, "r", locking=False) as file:
        read = node["primary"]["pilatus_image"][7]
        assert (read == file["/entry/data/data"][7]).all()
    return again.seconds


def requests(served: Served) -> int:
    served.measure()
    ended = served.stack(trace="-e trace=sendto -s 0")
    assert ended.code == 0
    return calls_of_stacker(ended.trace, "sendto")


def test_killed_while_it_publishes_the_run_is_there_once(served):
    n = requests(served)
    assert n > 10
    for k in (n // 4, n // 2, n - 1):
        killed(served, f"sendto:signal=KILL:when={k}")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_a_hundred_requests(served):
    n, worst, failures = requests(served), 0.0, []
    points = [f"{call}:signal=KILL:when={1 + i * n // 50}"
              for call in ("sendto", "recvfrom") for i in range(50)]  # fmt: skip
    for tried, point in enumerate(points):
        try:
            worst = max(worst, killed(served, point))
        except BaseException as error:
            failures.append(f"{point}: {error!r}"[:600])
        if tried % 10 == 9:
            print(f"killed while registering: {tried + 1} tried, {len(failures)} lost, "
                  f"worst {worst:.2f} s", flush=True)  # fmt: skip
    assert failures == []
