"""A catalog server in a process of its own, and runs that are published step by step."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from runs import SHAPE, MeasuredRun, counts_of, wait_until
from tiled.client.container import Container

from offbragg.callbacks.journal import Journal
from offbragg.files.journal_file import read_journal
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_folders import scan_directory
from offbragg.files.scan_writer import ScanWriter
from offbragg.followers.publisher import Publisher, RunPublisher
from offbragg.frame import Frame

SERVE = """
import sys
from pathlib import Path
from offbragg.catalog import volume_watch
from offbragg.catalog.server import serve
volume_watch.EVERY = 0.2
directory, root, ready, parent, port = sys.argv[1:]
serve(Path(directory), [Path(root)], ready=Path(ready), parent=int(parent), port=int(port))
"""


@dataclass
class Server:
    """A catalog server in a process of its own."""

    directory: Path
    root: Path
    process: subprocess.Popen[bytes]
    ready: Path

    @classmethod
    def start(
        cls,
        directory: Path,
        root: Path,
        *,
        port: int = 0,
        program: str = SERVE,
        cwd: Path | None = None,
    ) -> Server:
        ready = directory.parent / f"{directory.name}.ready"
        log = directory.parent / f"{directory.name}.log"
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", program]
                + [str(a) for a in (directory, root, ready, os.getpid(), port)],
                stdout=file,
                stderr=file,
                cwd=cwd,
            )
        server = cls(directory, root, process, ready)
        wait_until(
            lambda: ready.exists() or process.poll() is not None, 240.0, "the catalog to start"
        )
        assert process.poll() is None, log.read_text()
        return server

    @property
    def url(self) -> str:
        return json.loads(self.ready.read_text())["url"]

    @property
    def key(self) -> str:
        return (self.directory / "key").read_text().strip()

    @property
    def log(self) -> str:
        return (self.directory.parent / f"{self.directory.name}.log").read_text()

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=30)


@dataclass
class PublishedRun(MeasuredRun):
    """A run whose documents go to a publisher, and whose frames go to a scan file."""

    client: Any = None
    interval: float = 0.0
    follower: RunPublisher | None = None
    scan: ScanFile | None = None
    position: int = 0

    @property
    def publisher(self) -> Publisher:
        """A publisher that knows nothing yet, as after a restart."""
        return Publisher(lambda: self.client, self.experiment, interval=self.interval)

    def open(self) -> PublishedRun:
        self.follower, self.position = self.publisher.open(self.start), 0
        return self

    def create_scan_file(self) -> PublishedRun:
        directory = scan_directory(self.experiment, self.start)
        directory.mkdir(parents=True, exist_ok=True)
        self.scan = ScanWriter.create(directory, start=self.start)
        return self

    def store(self, *numbers: int) -> None:
        """Store frames in the scan file, with their values."""
        assert self.scan is not None
        for number in numbers:
            frame = Frame(number=number, counts=counts_of(number, SHAPE), header={})
            self.scan.set_values("monitor", [number], [1000.0 + number])
            self.scan.set_values("temperature", [number], [self.temperature + 0.1 * number])
            self.scan.write_frame(
                frame, source=f"x_{number:05d}.cbf", time=self.began + 0.1 * number
            )

    def finish(self, exit_status: str = "success") -> None:
        """End the run in the journal and in the scan file."""
        self.end(exit_status)
        assert self.scan is not None
        self.scan.finish(time=time.time(), exit_status=exit_status, reason="", summary={})

    def feed(self) -> bool:
        """Send the new documents of the journal to the publisher, and let it publish them."""
        assert self.follower is not None
        path = self.journal_directory / f"{self.uid}.jsonl"
        documents, self.position = read_journal(path, self.position)
        for name, doc in documents:
            self.follower(name, doc)
        while not (finished := self.follower.poll()) and self.follower.busy:
            pass
        return finished

    @property
    def node(self) -> Any:
        """The run in the catalog."""
        return self.client[self.uid]


def dtype_of(value: Any) -> str:
    kinds = {bool: "boolean", int: "integer", str: "string", list: "array"}
    return kinds.get(type(value), "number")


def described(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: {"source": "test", "dtype": dtype_of(value), "shape": list(np.shape(value))}
        for key, value in values.items()
    }


class Documents:
    """A run without frames, written to a journal as a RunEngine would."""

    def __init__(self, client: Any, root: Any, **start: Any) -> None:
        self.uid = str(uuid.uuid4())
        self.client = client
        self.root = root
        self.start = {"uid": self.uid, "time": time.time(), "scan_id": 1, **start}
        self.journal = Journal(root)
        self.journal("start", self.start)

    def stream(
        self,
        columns: Mapping[str, Sequence[Any]],
        *,
        configuration: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Documents:
        first = {key: values[0] for key, values in columns.items()}
        config = configuration or {}
        configured = {
            "data": dict(config),
            "timestamps": dict.fromkeys(config, 1.0),
            "data_keys": described(config),
        }
        self.journal("descriptor", {
            "uid": f"{self.uid}-d", "run_start": self.uid, "time": 1.0, "name": "primary",
            "data_keys": {key: {**spec, **more} for key, spec in described(first).items()},
            "object_keys": {"device": list(columns)}, "hints": {},
            "configuration": {"device": configured},
        })  # fmt: skip
        for number in range(len(next(iter(columns.values())))):
            data = {key: values[number] for key, values in columns.items()}
            self.journal("event", {
                "uid": str(uuid.uuid4()), "descriptor": f"{self.uid}-d", "time": 2.0 + number,
                "seq_num": number + 1, "data": data, "timestamps": dict.fromkeys(data, 2.0),
            })  # fmt: skip
        return self

    def stop(self, **more: Any) -> Documents:
        self.journal("stop", {
            "uid": f"{self.uid}-s", "run_start": self.uid, "time": 9.0, "exit_status": "success",
            "num_events": {}, **more,
        })  # fmt: skip
        return self

    def publish(self) -> Any:
        publisher = Publisher(lambda: self.client, self.root)
        follower = publisher.open(self.start)
        for name, doc in read_journal(self.root / f"{self.uid}.jsonl")[0]:
            follower(name, doc)
        while not follower.poll():
            assert follower.busy
        return self.client[self.uid]


def seen_by_a_client(node: Any) -> Any:
    """Return everything that a client gets of a node and its children, except times of creation."""
    item = json.loads(json.dumps(node.item["attributes"], default=str))
    for own in ("time_created", "time_updated"):
        item.pop(own, None)
    for source in item.get("data_sources") or []:
        source.pop("id", None)
        for asset in source.get("assets") or []:
            asset.pop("id", None)
            # its own tables and files are named after nothing that a run has
            if "catalog" in asset["data_uri"]:
                asset.pop("data_uri")
        if source.get("management") == "writable":
            source.pop("parameters", None)
    answers: dict[str, Any] = {"attributes": item}
    if isinstance(node, Container):
        node = getattr(node, "base", node)  # a stream shows the columns of its tables as its own
        answers["children"] = [
            [key, seen_by_a_client(Container.__getitem__(node, key))]
            for key in Container.keys(node)  # in its order
        ]
        return answers
    family = item["structure_family"]
    if family == "array":
        array = np.asarray(node.read())
        answers["read"] = [
            str(array.dtype),
            array.shape,
            hashlib.sha256(array.tobytes()).hexdigest(),
        ]
    elif family == "table":
        table = node.read()
        answers["read"] = [list(map(str, table.dtypes)), table.to_json(double_precision=15)]
    return answers
