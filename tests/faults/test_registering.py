"""The stacker is killed while it tells the catalog: the run is there once, and whole."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import pytest
from faults.judge import judge, stored
from faults.stacking import Stackers, WaitingRun, calls_of_stacker, strace, wait_until
from runs import SHAPE

from offbragg.catalog.server import connect

pytestmark = strace


@dataclass
class Served:
    """One beamline with a catalog, and all the runs of this module."""

    root: Path
    port: int
    stackers: Stackers
    runs: list[WaitingRun]
    client: Any = None

    def measure(self) -> WaitingRun:
        self.runs.append(WaitingRun(self.root, n_frames=20, port=self.port, shape=SHAPE).whole())
        return self.runs[-1]

    def stack(self, **how: Any) -> Any:
        return self.stackers.run(self.runs[-1].arguments, **how)


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("registered")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    beamline = Served(root / "beamline", port, Stackers(root / "stackers", quick=True), [])
    beamline.measure()
    ready = root / "ready"
    with (root / "said").open("wb") as said:
        serving = subprocess.Popen(
            [sys.executable, "-m", "offbragg", "serve", "--ready", str(ready),
             "--beamline", str(beamline.runs[0].toml)],
            stdout=said, stderr=said,
        )  # fmt: skip
    wait_until(lambda: ready.exists() or serving.poll() is not None, 90, "the catalog")
    assert beamline.stack().code == 0
    key = (beamline.root / "catalog" / "key").read_text().strip()
    beamline.client = connect(f"http://127.0.0.1:{port}", key)
    yield beamline
    beamline.client.context.http_client.close()
    serving.terminate()
    serving.wait(30)
    beamline.stackers.close()
    for run in beamline.runs:
        run.journal.close()


def scan_file_of(run: WaitingRun) -> Path:
    found = []
    for path in run.scan_files():
        with h5py.File(path, "r", swmr=True, locking=False) as file:
            if file["/entry/entry_identifier"][()].decode() == run.uid:
                found.append(path)
    (path,) = found
    return path


def killed(served: Served, point: str) -> float:
    """Kill a stacker that publishes, and start it again; gives the time to recover, s."""
    run = served.measure()
    ended = served.stack(inject=[point])
    assert ended.code in (0, -signal.SIGKILL), ended.said
    again = served.stack()
    assert again.code == 0, again.said

    path = scan_file_of(run)
    assert judge(path, run.sources, values=run.values, over=True) == []
    assert sorted(served.client) == sorted(run.uid for run in served.runs)
    node = served.client[run.uid]
    assert node.metadata["stop"]["offbragg"]["frames"]["stored"] == len(stored(path)) == 20
    assert node.metadata["stop"]["exit_status"] == "success"
    assert node["primary"]["pilatus_image"].shape[0] == 20
    with h5py.File(path, "r", locking=False) as file:
        told = node["primary"]["pilatus_image"][7]
        assert (told == file["/entry/data/data"][7]).all()
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
