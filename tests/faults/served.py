"""A beamline with a catalog in a process of its own, which can be killed and started again."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
from faults.stacking import Ended, Stackers, WaitingRun, wait_until
from runs import SHAPE

from offbragg.catalog.client import connect


@dataclass
class Served:
    """One beamline with a catalog, and all the runs of a module's tests."""

    root: Path
    stackers: Stackers
    port: int = 0
    runs: list[WaitingRun] = field(default_factory=list)
    client: Any = None
    catalog: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextlib.contextmanager
    def started(cls, root: Path) -> Iterator[Served]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        served = cls(root / "beamline", Stackers(root / "stackers", quick=True), port)
        try:
            yield served
        finally:
            served.forget_client()
            if served.catalog is not None:
                served.catalog.terminate()
                served.catalog.wait(30)
            served.stackers.close()
            for run in served.runs:
                run.journal.close()

    def wait(self, **how: Any) -> WaitingRun:
        """Prepare a run whose documents and frames are to come."""
        self.runs.append(WaitingRun(self.root, port=self.port, **{"shape": SHAPE} | how))
        return self.runs[-1]

    def measure(self) -> WaitingRun:
        """Make a run of twenty frames that is over."""
        return self.wait(n_frames=20).whole()

    def stack(self, **how: Any) -> Ended:
        return self.stackers.run(self.runs[-1].arguments, **how)

    @contextlib.contextmanager
    def stacking(self, patch: Mapping[str, Any] | None = None) -> Iterator[int]:
        """Have a stacker that follows the journal and publishes; gives its pid."""
        following = [a for a in self.runs[-1].arguments if a != "--once"]
        pids: queue.SimpleQueue[int] = queue.SimpleQueue()
        ended: list[Ended] = []
        thread = threading.Thread(
            target=lambda: ended.append(
                self.stackers.run(following, meanwhile=pids.put, patch=patch)
            )
        )
        thread.start()
        pid = pids.get(timeout=20)
        try:
            yield pid
        finally:
            os.kill(pid, signal.SIGTERM)
            thread.join(30)
        assert ended[0].code == 0, ended[0].output

    def serve(self) -> None:
        """Start the catalog, and connect to it."""
        ready = self.root / "ready"
        ready.unlink(missing_ok=True)
        output = self.root / "output"
        with output.open("ab") as log:
            self.catalog = serving = subprocess.Popen(
                [sys.executable, "-m", "offbragg", "serve", "--ready", str(ready),
                 "--beamline", str(self.runs[0].toml)],
                stdout=log, stderr=log,
            )  # fmt: skip
        wait_until(lambda: ready.exists() or serving.poll() is not None, 90, "the catalog")
        assert serving.poll() is None, output.read_text()
        key = (self.root / "catalog" / "key").read_text().strip()
        self.client = connect(json.loads(ready.read_text())["url"], key)

    def kill_catalog(self) -> None:
        assert self.catalog is not None
        self.forget_client()
        self.catalog.kill()
        self.catalog.wait(10)
        self.catalog = None

    def forget_client(self) -> None:
        if self.client is not None:
            self.client.context.http_client.close()
            self.client = None

    def published(self, run: WaitingRun) -> bool:
        """Whether the catalog has a run with its end."""
        try:
            return bool(self.client[run.uid].metadata.get("stop"))
        except KeyError:
            return False


def scan_file_of(run: WaitingRun) -> Path | None:
    """Find the scan file of a run among those of a beamline."""
    for path in run.scan_files():
        with contextlib.suppress(OSError), h5py.File(path, "r", swmr=True, locking=False) as file:
            if file["/entry/entry_identifier"][()].decode() == run.uid:
                return path
    return None
