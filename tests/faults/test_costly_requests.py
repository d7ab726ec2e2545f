"""Clients of the catalog that ask for too much, or do not come to an end; and the others."""

from __future__ import annotations

import contextlib
import itertools
import json
import resource
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest
from catalog.served import SERVE, Server
from faults.judge import judge
from faults.stacking import WaitingRun
from runs import wait_until
from tiled.structures.array import ArrayStructure, BuiltinDtype
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import Asset, DataSource, Management

from offbragg.catalog.client import connect
from offbragg.catalog.request_limits import DOCUMENT, SOCKETS
from offbragg.files.scan_file import ScanFile

SHAPE = (4000, 1679, 1475)  # 40 GB
ROOM = 3_000_000_000  # bytes of address space that the server may take beyond what it has
SMALLER = """
from offbragg.catalog import request_limits as limits, read_limits
read_limits.AT_ONCE = 320_000_000
limits.HEADING, limits.STALLED, limits.UPLOADING = 1.0, 1.5, 1.0
"""


@dataclass
class Besieged:
    """A catalog with files that are larger than they look."""

    server: Server
    http: httpx.Client
    runs: Any

    def memory(self, word: str) -> int:
        """Bytes, as the kernel counts them."""
        for line in Path(f"/proc/{self.server.process.pid}/status").read_text().splitlines():
            if line.startswith(word):
                return 1024 * int(line.split()[1])
        raise AssertionError(word)

    @contextlib.contextmanager
    def grows_by_at_most(self, most: int) -> Iterator[None]:
        """Nothing that is done may take more memory, not even for a moment."""
        before = self.memory("VmRSS")
        Path(f"/proc/{self.server.process.pid}/clear_refs").write_text("5")  # the peak is now
        yield
        grown = self.memory("VmHWM") - before
        print(f"memory: {grown / 1e6:.0f} MB more than {before / 1e6:.0f} MB at most")
        assert grown <= most

    def works(self) -> float:
        """Read one frame as everybody does; gives how long it took, s."""
        began = time.monotonic()
        with httpx.Client(base_url=self.http.base_url, headers=self.http.headers) as friend:
            answer = friend.get("/api/v1/array/full/raw/sparse?slice=7", timeout=30)
        assert answer.status_code == 200, answer.text
        assert len(answer.content) == 4 * SHAPE[1] * SHAPE[2]
        return time.monotonic() - began

    def register(
        self, name: str, path: Path, *, shape: tuple[int, ...] | None = (), dataset: str = "data"
    ) -> None:
        """Register an HDF5 file, or with `shape` a dataset in it, as one block."""
        structure = None
        family = StructureFamily.container
        if shape is not None:
            family = StructureFamily.array
            dtype = BuiltinDtype.from_numpy_dtype(np.dtype("<i4"))
            structure = ArrayStructure(dtype, tuple((n,) for n in shape), shape)
        uri = f"file://localhost{path}"
        asset = Asset(data_uri=uri, is_directory=False, parameter="data_uris", num=0)
        source = DataSource(
            structure_family=family,
            structure=structure,
            mimetype="application/x-hdf5",
            parameters={"dataset": dataset} if shape is not None else {},
            assets=[asset],
            management=Management.external,
        )
        self.runs.new(family, [source], key=name)

    def dial(self, *, buffer: int = 0) -> socket.socket:
        """Connect, and say nothing."""
        caller = socket.socket()
        if buffer:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        caller.settimeout(20)
        caller.connect((self.http.base_url.host, self.http.base_url.port))
        return caller

    def ask(self, path: str, **how: int) -> socket.socket:
        """Ask for something, and do not take the answer."""
        caller = self.dial(**how)
        key = self.http.headers["Authorization"]
        caller.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n\r\n".encode())
        return caller


@pytest.fixture(scope="module")
def besieged(tmp_path_factory) -> Iterator[Besieged]:
    root = tmp_path_factory.mktemp("besieged")
    (data := root / "experiment").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server.start(root / "catalog", root, port=port, program=SMALLER + SERVE)
    runs = connect(server.url, server.key)
    http = httpx.Client(
        base_url=server.url, headers={"Authorization": f"Apikey {server.key}"}, timeout=30
    )
    made = Besieged(server, http, runs)
    with h5py.File(data / "sparse.h5", "w") as file:  # a few kB, all of them
        file.create_dataset("data", SHAPE, "<i4", chunks=(1, *SHAPE[1:]))
        file.create_dataset("contiguous", SHAPE, "<i4")
        file.create_dataset("one-chunk", SHAPE, "<i4", chunks=(390, *SHAPE[1:]))
        file.create_dataset("crumbs", (10**12,), "<i4", chunks=(1,))
    with h5py.File(data / "many.h5", "w") as file:
        for number in range(8):
            shape = (9, *SHAPE[1:])
            file.create_dataset(f"deep/{number}", shape, "<i4", chunks=(1, *shape[1:]))
    made.register("sparse", data / "sparse.h5", shape=SHAPE)
    made.register("contiguous", data / "sparse.h5", shape=SHAPE, dataset="contiguous")
    made.register("one-chunk", data / "sparse.h5", shape=SHAPE, dataset="one-chunk")
    made.register("crumbs", data / "sparse.h5", shape=(10**12,), dataset="crumbs")
    made.register("whole", data / "sparse.h5", shape=None)
    made.register("many", data / "many.h5", shape=None)
    made.works()
    http.get("/zarr/v2/raw/sparse/.zarray")
    limit = made.memory("VmSize") + ROOM
    resource.prlimit(server.process.pid, resource.RLIMIT_AS, (limit, limit))
    yield made
    http.close()
    runs.context.http_client.close()
    assert server.end() == 0


TOO_MUCH = {
    "all of 40 GB": "/api/v1/array/full/raw/sparse",
    "10^12 of it": "/api/v1/array/full/raw/sparse?slice=0:1000000000000",
    "10^12 steps back": "/api/v1/array/full/raw/sparse?slice=1000000000000::-1",
    "one block of 40 GB": "/api/v1/array/block/raw/sparse?block=0,0,0",
    "nearly all of a block": "/api/v1/array/block/raw/sparse?block=0,0,0&slice=1:",
    "a block of Zarr": "/zarr/v2/raw/sparse/0.0.0",
    "a chunk of Zarr 3": "/zarr/v3/raw/sparse/c/0/0/0",
    "four frames as text": "/api/v1/array/full/raw/sparse?slice=0:4&format=application/json",
    "four frames as a picture": "/api/v1/array/full/raw/sparse?slice=0:4&format=image/tiff",
    "what lies in a file": "/api/v1/array/full/raw/many/deep/3?format=csv",
}
NONSENSE = {
    "a number of 5000 digits": f"/api/v1/array/full/raw/sparse?slice=0:{'9' * 5000}",
    "block 10^12": "/api/v1/array/block/raw/sparse?block=1000000000000,0,0",
    "frame 10^12": "/api/v1/array/full/raw/sparse?slice=1000000000000",
    "a step of nothing": "/api/v1/array/full/raw/sparse?slice=::0",
}
ABSURD = {
    "contiguous": "/api/v1/array/full/raw/contiguous?slice=0",
    "one-chunk": "/api/v1/array/full/raw/one-chunk?slice=0,0,0",
    "crumbs": "/api/v1/array/full/raw/crumbs?slice=0:10",
    "sparse.h5": "/api/v1/array/full/raw/whole/data?slice=0",  # the others are in it
}


def test_what_is_too_much_is_refused_before_it_is_read(besieged):
    worst = 0.0
    with besieged.grows_by_at_most(60_000_000):
        for what, asked in (TOO_MUCH | NONSENSE).items():
            began = time.monotonic()
            answer = besieged.http.get(asked)
            worst = max(worst, time.monotonic() - began)
            assert answer.status_code in ((400,) if what in TOO_MUCH else (400, 422)), what
            assert ("one request may read" in answer.text) == (what in TOO_MUCH), answer.text
        for name, asked in ABSURD.items():
            answer = besieged.http.get(asked)
            assert answer.status_code == 403, name
            assert name in answer.text
            assert "Store it in" in answer.text

    print(f"{len(TOO_MUCH | NONSENSE | ABSURD)} refused, the worst after {worst:.2f} s")
    assert worst < 2
    assert besieged.works() < 5


def test_a_container_is_not_read_beyond_what_one_request_may(besieged):
    with besieged.grows_by_at_most(750_000_000):  # what it may, twice, and no more of 640 MB
        for route in ("container", "node"):
            answer = besieged.http.get(f"/api/v1/{route}/full/raw/many")
            assert answer.status_code == 400
            assert "one node of a container" in answer.text

    besieged.works()


def endless(size: int) -> Iterator[bytes]:
    for _ in range(size // 100_000):
        yield b'"' + b"x" * 99_999


def test_a_request_that_brings_too_much_is_refused(besieged):
    large = json.dumps({"metadata": {"x": "y" * 20_000_000}}).encode()
    assert len(large) > DOCUMENT

    with besieged.grows_by_at_most(60_000_000):
        answers = [
            besieged.http.post("/api/v1/metadata/raw", content=large),
            besieged.http.post("/api/v1/metadata/raw", content=endless(20_000_000)),
            besieged.http.patch("/api/v1/metadata/raw", content=endless(20_000_000)),
        ]
        announced = besieged.dial()
        key = besieged.http.headers["Authorization"]
        announced.sendall(
            f"PUT /api/v1/array/full/raw/sparse HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n"
            f"Content-Length: {40 * 10**9}\r\n\r\n".encode()
        )
        head = announced.recv(100)
        announced.close()

    assert [answer.status_code for answer in answers] == [413] * 3
    assert "this one brings more" in answers[1].text
    assert head.startswith(b"HTTP/1.1 413 ")
    besieged.works()


def test_a_body_that_does_not_come_is_not_waited_for(besieged):
    with besieged.dial() as caller:
        key = besieged.http.headers["Authorization"]
        caller.sendall(
            f"POST /api/v1/metadata/raw HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{".encode()
        )
        began = time.monotonic()
        reply = caller.recv(100)

    assert reply.startswith(b"HTTP/1.1 408 ")
    assert 0.5 < time.monotonic() - began < 5


@contextlib.contextmanager
def many_files(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def is_cut(caller: socket.socket) -> bool:
    """Whether the server has ended a connection; what it has sent before is thrown away."""
    try:
        while caller.recv(1 << 20):
            pass
    except TimeoutError:
        return False
    except ConnectionResetError:
        pass
    return True


def test_a_thousand_sockets_that_say_nothing_keep_no_one_out(besieged):
    pid = besieged.server.process.pid
    with many_files(2000), contextlib.ExitStack() as stack:
        callers = [stack.enter_context(besieged.dial()) for _ in range(1000)]
        worst = max(besieged.works() for _ in range(3))
        opened = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        began = time.monotonic()
        assert all(is_cut(caller) for caller in callers)
        print(f"1000 sockets: worst answer {worst:.2f} s, {opened} files open, all sockets cut "
              f"after {time.monotonic() - began:.1f} s")  # fmt: skip

    assert opened < SOCKETS + 100
    assert worst < 5


def test_who_asks_letter_by_letter_is_cut_off(besieged):
    request = b"GET /api/v1/ HTTP/1.1\r\nHost: " + b"x" * 1000
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(besieged.dial()) for _ in range(20)]
        began = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for letter in request:
                for caller in callers:
                    caller.sendall(bytes([letter]))
                time.sleep(0.05)
        seconds = time.monotonic() - began
        besieged.works()
        assert all(is_cut(caller) for caller in callers)

    assert 0.5 < seconds < 5


def test_who_does_not_take_an_answer_is_cut_off_and_who_is_slow_gets_all_of_it(besieged):
    frame, resident = 4 * SHAPE[1] * SHAPE[2], besieged.memory("VmRSS")
    five = "/api/v1/array/full/raw/sparse?slice=0:5"  # 50 MB; four of them are 200
    more = "/api/v1/array/full/raw/sparse?slice=0:13"  # would be 330 with them
    with contextlib.ExitStack() as stack:
        stalled = [stack.enter_context(besieged.ask(five, buffer=4096)) for _ in range(4)]
        heads = [caller.recv(100) for caller in stalled]
        assert all(head.startswith(b"HTTP/1.1 200 OK") for head in heads), heads
        busy = besieged.http.get(more)
        slow = stack.enter_context(
            besieged.ask("/api/v1/array/full/raw/sparse?slice=0:1", buffer=4096)
        )
        taken, began = slow.recv(4096).partition(b"\r\n\r\n")[2], time.monotonic()
        while len(taken) < frame and (part := slow.recv(1 << 16)):
            taken += part
            time.sleep(len(part) / 5e6)  # 5 MB/s
        seconds = time.monotonic() - began
        besieged.works()
        time.sleep(max(0.0, 3.0 - seconds))
        for caller in stalled:
            late = 0
            with contextlib.suppress(ConnectionResetError):
                while part := caller.recv(1 << 20):
                    late += len(part)
            assert late < 5 * frame - 1_000_000

    assert busy.status_code == 503
    assert int(busy.headers["retry-after"]) > 0
    assert len(taken) == frame
    assert seconds > 1.5  # slower than a piece may be late, and than a silence may be
    wait_until(lambda: besieged.memory("VmRSS") < resident + 100_000_000, 10, "memory to be free")
    assert besieged.http.get(more).status_code == 200


@contextlib.contextmanager
def siege(besieged: Besieged) -> Iterator[list[int]]:
    """All of it at once, until the end; gives a list that grows by the status of each answer."""
    over, answers = threading.Event(), []

    def again(http: httpx.Client, attack: Callable[[httpx.Client], Any]) -> None:
        while not over.is_set():
            with contextlib.suppress(httpx.HTTPError, OSError):
                answers.append(attack(http))

    def dial(http: httpx.Client) -> int:
        with contextlib.ExitStack() as callers:
            for _ in range(200):
                callers.enter_context(besieged.dial())
            return over.wait(0.2)

    too_much = itertools.cycle(TOO_MUCH.values())
    attacks: list[Callable[[httpx.Client], Any]] = [
        lambda http: http.get(next(too_much)).status_code,
        lambda http: http.get("/api/v1/array/full/raw/sparse?slice=0:10").status_code,
        lambda http: http.post("/api/v1/metadata/raw", content=endless(20_000_000)).status_code,
        lambda http: http.get("/api/v1/metadata/raw", headers={"Authorization": "Apikey x"})
        .status_code,
        dial,
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        for attack in attacks:
            http = stack.enter_context(
                httpx.Client(
                    base_url=besieged.http.base_url, headers=besieged.http.headers, timeout=30
                )
            )
            one = threading.Thread(target=again, args=(http, attack))
            one.start()
            stack.callback(one.join)
            stack.callback(over.set)
        yield answers


@pytest.mark.slow
def test_a_minute_of_siege(besieged):
    pid = besieged.server.process.pid
    besieged.works()
    with besieged.grows_by_at_most(1_500_000_000), siege(besieged) as answers:
        worst, opened, until = 0.0, 0, time.monotonic() + 60
        while time.monotonic() < until:
            worst = max(worst, besieged.works())
            opened = max(opened, len(list(Path(f"/proc/{pid}/fd").iterdir())))
    print(f"a minute: {Counter(answers)}, worst answer {worst:.2f} s, {opened} files open")

    assert worst < 5
    assert opened < SOCKETS + 100
    assert set(answers) <= {0, 1, 200, 400, 401, 413, 429, 503}


def test_the_stacker_stores_at_its_rate_while_the_catalog_is_besieged(besieged):
    """It is another process, and waits for no answer."""
    n_frames, period = 25, 0.1
    run = WaitingRun(
        besieged.server.directory.parent, n_frames=n_frames, period=period,
        port=besieged.http.base_url.port, late=5.0,
    )  # fmt: skip
    written, seen = dict[int, float](), dict[int, float]()

    def measure() -> None:
        begin = time.monotonic()
        for number in range(1, n_frames):
            time.sleep(max(0.0, begin + period * number - time.monotonic()))
            run.write(number)
            written[number] = time.monotonic()
            run.announce(number + 1)

    def look() -> None:
        with ScanFile.open(run.scan_file()) as scan:
            words = scan.frame_values()["status"]
        for number in np.flatnonzero(words == "stored").tolist():
            if number in written:
                seen.setdefault(number, time.monotonic() - written[number])

    with contextlib.ExitStack() as stack:
        output = stack.enter_context((run.root / "output").open("wb"))
        stacker = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "offbragg", "stack", "--catalog", "--late", "5",
                 "--beamline", str(run.toml)], stdout=output, stderr=output,
            )
        )  # fmt: skip
        stack.callback(stacker.kill)
        run.begin()
        run.write(0)
        run.announce(1)
        wait_until(run.scan_files, 60, "the stacker")
        with siege(besieged) as answers:
            measuring = threading.Thread(target=measure)
            measuring.start()
            deadline = time.monotonic() + 30
            while len(seen) < n_frames - 1 and time.monotonic() < deadline:
                look()
                time.sleep(0.02)
            measuring.join()
            asked = Counter(answers)
        run.end()
        wait_until(lambda: run.uid in besieged.runs, 60, "its run")
        published = besieged.runs[run.uid]
        wait_until(lambda: published.refresh().metadata.get("stop"), 60, "its end")
        stacker.terminate()
        assert stacker.wait(30) == 0
    late = sorted(seen.values())
    median = late[len(late) // 2]
    print(f"{len(late)} frames stored, {median:.2f} s late, {late[-1]:.2f} s at worst, while "
          f"{sum(asked.values())} requests were answered: {dict(asked)}")  # fmt: skip

    assert len(seen) == n_frames - 1
    assert late[-1] < 2
    assert judge(run.scan_file(), run.sources, over=True) == []
    counts = published.metadata["stop"]["offbragg"]["frames"]
    assert (counts["stored"], counts["missing"]) == (n_frames, 0)
    run.journal.close()
