"""Others read along, stall, or are away; the catalog is made again and killed meanwhile.

What a reader is shown as stored it reads as it was measured, and no reader, and no catalog that is
dead, keeps a frame from being stored.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from catalog.served import seen_by_a_client
from faults.judge import judge, stored
from faults.reader import sha256
from faults.served import Served, scan_file_of
from faults.stacking import SMALL, WaitingRun, kill_after, small_counts, wait_until
from streams import SHAPE_2M, chunk_for, generated

from offbragg import kernels
from offbragg.beamline.config import load
from offbragg.files.scan_writer import ScanWriter
from offbragg.frame import PackedFrame
from offbragg.status import describe, status

READER = str(Path(__file__).with_name("reader.py"))
needs_kernels = pytest.mark.skipif(not kernels.compiled, reason="the kernels are not compiled")
HOW = ("keeps", "reopens", "keeps", "reopens")


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    with Served.started(tmp_path_factory.mktemp("along")) as beamline:
        beamline.wait(n_frames=2, shape=SMALL).whole()
        beamline.serve()
        assert beamline.stack().code == 0
        yield beamline


@dataclass
class Readers:
    """Four processes that read a scan file while it grows."""

    expected: list[str]
    processes: list[subprocess.Popen[str]]

    @classmethod
    @contextlib.contextmanager
    def of(
        cls, run: WaitingRun, expected: list[str] | None = None, *, pause: float = 0.0
    ) -> Iterator[Readers]:
        if expected is None:
            expected = [sha256(small_counts(n, run.shape)) for n in range(run.n_frames)]
        file = run.root / f"{run.uid}.expected"
        file.write_text(json.dumps(expected))
        processes = [
            subprocess.Popen(
                [sys.executable, READER, each, str(file), str(pause)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for each in HOW
        ]  # fmt: skip
        try:
            yield cls(expected, processes)
        finally:
            for process in processes:
                process.kill()
                process.communicate()

    def begin(self, path: Path) -> None:
        """Have them read a file."""
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == "ready\n"
            process.stdin.write(f"{path}\n")
            process.stdin.flush()

    def signal(self, number: int) -> None:
        for process in self.processes:
            process.send_signal(number)

    def end(self) -> list[dict[str, Any]]:
        self.signal(signal.SIGTERM)
        reports = [json.loads(process.communicate(timeout=180)[0]) for process in self.processes]
        assert [one["problems"] for one in reports] == [[] for _ in reports]
        assert [one["stored"] for one in reports] == [len(self.expected) for _ in reports]
        return reports


class OverHTTP:
    """A client of the catalog that asks again and again what is there."""

    def __init__(self, served: Served, run: WaitingRun, expected: list[str]) -> None:
        self.served, self.run, self.expected = served, run, expected
        self.seen = 0
        self.looks = 0

    def look(self) -> None:
        try:
            primary = self.served.client[self.run.uid]["primary"]
            image = primary["pilatus_image"]
            words = [str(word) for word in primary["status"].read()]
        except KeyError:
            return  # not there yet
        n = image.shape[0]
        assert n >= self.seen
        assert words[:n] == ["stored"] * n
        first = min(self.seen, random.randrange(n + 1))  # some of them once more
        for number, counts in enumerate(np.asarray(image[first:n]), first):
            assert sha256(counts) == self.expected[number], number
        self.looks += 0 < n < self.run.n_frames
        self.seen = n


def measuring(
    run: WaitingRun, rate: float, pause: Callable[[], Any] = lambda: None
) -> threading.Thread:
    """Measure all of a run, in a thread, with a pause after the first half."""

    def measure() -> None:
        began = time.monotonic()
        for number in range(run.n_frames):
            if number == run.n_frames // 2:
                paused = time.monotonic()
                pause()
                began += time.monotonic() - paused
            run.write(number)
            run.announce(number + 1)
            time.sleep(max(began + (number + 1) / rate - time.monotonic(), 0.0))

    thread = threading.Thread(target=measure)
    thread.start()
    return thread


def over(run: WaitingRun) -> None:
    run.monitor_counted(list(range(run.n_frames)))
    run.end()


def found(run: WaitingRun) -> Path:
    path = wait_until(lambda: scan_file_of(run), 20, "the scan file")
    assert path is not None
    return path


def test_whoever_reads_along_reads_what_was_measured(served):
    run = served.wait(n_frames=40)
    with Readers.of(run, pause=0.02) as readers, served.stacking():
        run.begin()
        path = found(run)
        readers.begin(path)
        client = OverHTTP(served, run, readers.expected)
        thread = measuring(run, 25.0, lambda: wait_until(lambda: client.looks > 1, 20))
        while thread.is_alive():
            client.look()
        over(run)
        wait_until(lambda: served.published(run), 30, "the end in the catalog")
        client.look()
        reports = readers.end()

    assert client.seen == run.n_frames
    assert client.looks > 1
    assert all(one["while_it_grew"] > 3 for one in reports)
    assert judge(path, run.sources, values=run.values, over=True) == []
    reads, looks = sum(one["reads"] for one in reports), sum(one["looks"] for one in reports)
    print(f"\nfour readers: {looks} looks, {reads} frames read, none wrong; "
          f"{client.looks} looks over HTTP while it grew")  # fmt: skip


class Writer:
    """A scan file of 2M frames, and how long it takes to append one."""

    KINDS = 4

    def __init__(self, root: Path, n_frames: int) -> None:
        self.run = WaitingRun(root, n_frames=n_frames, shape=SHAPE_2M)
        counts = generated()
        self.chunks, kinds = [], []
        for kind in range(self.KINDS):
            counts[0, 0] = kind
            chunk = chunk_for(counts.size)
            self.chunks.append(kernels.encode(counts, chunk).copy())
            kinds.append(sha256(counts))
        self.expected = [kinds[n % self.KINDS] for n in range(n_frames)]
        self.scan = ScanWriter.create(self.run.experiment, start=self.run.start)
        self.n = 0

    def append(self, n: int, pace: float) -> list[float]:
        """Append a number of frames, one every ``pace`` s; gives how long each took, s."""
        took = []
        begin = time.perf_counter()
        for i in range(n):
            time.sleep(max(begin + i * pace - time.perf_counter(), 0.0))
            frame = PackedFrame(self.n, SHAPE_2M, self.chunks[self.n % self.KINDS],
                                f"x_{self.n:05d}.cbf")  # fmt: skip
            began = time.perf_counter()
            self.scan.write_frames([frame])
            took.append(time.perf_counter() - began)
            self.n += 1
        return took


def appends(root: Path, n: int, pace: float, elsewhere: Path | None) -> dict[str, list[float]]:
    """How long appends take without readers, with four, with four that were stopped in a read.

    With another file of frames the four first read that one: what they then cost is processors.
    """
    writer = Writer(root, (4 if elsewhere else 3) * n + 2)
    writer.append(2, 0.0)  # makes the mask, too
    took = {"none": writer.append(n, pace)}
    if elsewhere is not None:
        with Readers.of(writer.run, writer.expected) as readers:
            readers.begin(elsewhere)
            time.sleep(0.5)
            took["four read another file"] = writer.append(n, pace)
    with Readers.of(writer.run, writer.expected) as readers:
        readers.begin(writer.scan.path)
        time.sleep(0.5)
        took["four read it"] = writer.append(n, pace)
        readers.signal(signal.SIGSTOP)
        took["four stopped in a read"] = writer.append(n, pace)
        readers.signal(signal.SIGCONT)
        readers.end()
    writer.scan.close()
    writer.run.journal.close()
    return took


def tell(took: dict[str, list[float]]) -> None:
    for who, times in took.items():
        ms = 1e3 * np.sort(times)
        print(f"\nreaders: {who}: {ms.size} appends, median {np.median(ms):.2f} ms, "
              f"99 % {np.percentile(ms, 99):.2f} ms, longest {ms[-1]:.2f} ms, "
              f"{np.count_nonzero(ms > 20)} above 20 ms")  # fmt: skip


@needs_kernels
def test_a_reader_that_is_stopped_in_a_read_keeps_no_writer_waiting(tmp_path):
    took = appends(tmp_path, 10, 0.02, None)

    tell(took)
    assert max(took["four stopped in a read"]) < 1.0  # 20 ms when nobody else is there
    assert max(took["four read it"]) < 2.0


@needs_kernels
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("place", ["memory", "disk"])
def test_how_long_appends_take_while_others_read(tmp_path, place, monkeypatch):
    monkeypatch.setattr("offbragg.files.durable._SYNC_EVERY", 1e9)  # it has nothing to do with
    monkeypatch.setattr("offbragg.files.durable._SYNC_FRAMES", 10**9)  # readers
    total: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if place == "memory" else tmp_path) as folder:
        elsewhere = Writer(Path(folder) / "elsewhere", 10)
        elsewhere.append(10, 0.0)
        for turn in range(4):
            root = Path(folder) / f"{turn}"
            for who, times in appends(root, 50, 0.05, elsewhere.scan.path).items():
                total.setdefault(who, []).extend(times)
            shutil.rmtree(root)
        elsewhere.scan.close()
        elsewhere.run.journal.close()

    print(f"\nin {place}:", end="")
    tell(total)
    assert max(total["four stopped in a read"]) < max(1.0, 3 * max(total["none"]))


@dataclass
class Process:
    """What a process uses."""

    pid: int

    def memory(self) -> float:
        """Memory that is in no file, MB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) / 1e3
        raise AssertionError

    def descriptors(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())


def outage(served: Served, seconds: float, rate: float) -> None:
    """Measure with a catalog that is dead and readers that stall, and have both come back."""
    run = served.wait(n_frames=int(seconds * rate), shape=SMALL)
    config = load(run.toml)
    lags: list[int] = []
    used: list[tuple[int, float, int]] = []
    patch = {"offbragg.followers.followed_run._BACK_OFF": [0.3]} if seconds < 60 else {}
    with Readers.of(run) as readers, served.stacking(patch) as pid:
        run.begin()
        path = found(run)
        readers.begin(path)
        thread = measuring(run, rate)
        wait_until(lambda: len(stored(path)) > 5, 20)
        readers.signal(signal.SIGSTOP)  # they do nothing but read, so in the middle of it
        served.kill_catalog()
        began, shown = time.monotonic(), ""
        while thread.is_alive():
            lags.append(len(run.sources) - len(stored(path)))
            used.append((len(run.sources), Process(pid).memory(), Process(pid).descriptors()))
            if not shown and len(run.sources) > run.n_frames // 2:
                shown = describe(status(config, devices=False))
            time.sleep(min(0.1, 1 / rate) if seconds < 60 else 1.0)
        over(run)
        dead = time.monotonic() - began
        ended = time.monotonic()
        wait_until(lambda: len(stored(path)) == run.n_frames, 30, "the last frames")
        late = time.monotonic() - ended
        wait_until(lambda: status(config, devices=False)["backlog"]["runs"] == 0, 30, "the end")
        assert judge(path, run.sources, values=run.values, over=True) == []
        state = status(config, devices=False)
        assert not state["catalog"]["up"]
        # and the earlier ones, of which it could not be asked any more
        assert 1 <= state["catalog"]["unpublished"] <= len(served.runs)
        print(f"\ncatalog dead and readers stopped for {dead:.1f} s: {run.n_frames} frames at "
              f"{rate:g} Hz stored, at most {max(lags)} behind, the last after {late:.2f} s"
              )  # fmt: skip
        if seconds > 60:
            tenth, half = (next(row for row in used if row[0] >= run.n_frames * part)
                           for part in (0.1, 0.5))  # fmt: skip
            spans = (tenth, half), (half, used[-1])
            growth = [1e3 * (b[1] - a[1]) / (b[0] - a[0]) for a, b in spans]
            print(f"memory {tenth[1]:.1f}, {half[1]:.1f}, {used[-1][1]:.1f} MB: {growth[0]:.3f} "
                  f"and {growth[1]:.3f} MB per 1000 frames; {half[2]} and {used[-1][2]} descriptors"
                  )  # fmt: skip
            # but for buffers of the threads that read frames, of 4 MB each: no more than a few
            assert used[-1][1] - tenth[1] < 16 + run.n_frames / 1000
            assert used[-1][2] <= half[2] + 2

        again = time.monotonic()
        served.serve()
        readers.signal(signal.SIGCONT)
        wait_until(lambda: served.published(run), 120, "the run in the catalog")
        back = time.monotonic() - again
        readers.end()

    node = served.client[run.uid]
    assert node.metadata["stop"]["offbragg"]["frames"]["stored"] == run.n_frames
    assert node["primary"]["pilatus_image"].shape[0] == run.n_frames
    assert "catalog   not available" in shown
    assert "to be published" in shown
    print(f"in the catalog {back:.1f} s after it was started")
    assert max(lags) < max(20, 10 * rate)  # as many as a busy host may leave


def test_a_dead_catalog_and_readers_that_stall_hold_up_no_frame(served):
    outage(served, seconds=2.0, rate=20.0)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_catalog_that_is_dead_for_ten_minutes(served):
    outage(served, seconds=610.0, rate=10.0)


def rebuilt(served: Served, **how: Any) -> Any:
    return served.stackers.run(["rebuild", "--json", "--beamline", str(served.runs[0].toml)], **how)


def forget_all(served: Served) -> None:
    for uid in list(served.client):
        served.client.delete_contents(uid, recursive=True, external_only=False)
    assert len(served.client) == 0


def runs_in(served: Served) -> Any:
    """See to it that there are some runs, of several kinds; give what a client sees of all."""
    if len(served.runs) < 4:  # of what other tests measured, too
        for exit_status in ("success", "abort", "fail"):
            run = served.wait(n_frames=6, shape=SMALL).begin()
            run.write(*range(6 if exit_status == "success" else 4))
            run.announce(6)
            run.monitor_counted([0, 1, 2, 3])
            run.end(exit_status)
        assert served.stack().code == 0
    seen = seen_by_a_client(served.client)
    assert len(seen["children"]) == len(served.runs)
    return seen


def kill_rebuilds(served: Served, moments: Sequence[float], before: Any) -> int:
    """Kill a rebuild at each moment, s; gives how often it was in time."""
    killed, worst = 0, 0.0
    for moment in moments:
        forget_all(served)
        ended = rebuilt(served, meanwhile=kill_after(moment))
        killed += ended.code == -signal.SIGKILL
        there = len(served.client)
        again = rebuilt(served)
        assert again.code == 0, again.output
        assert json.loads(again.output.splitlines()[-1])["failed"] == []
        print(f"\nkilled after {moment:.2f} s, {there} runs there: whole in {again.seconds:.2f} s")
        worst = max(worst, again.seconds)
        assert seen_by_a_client(served.client) == before, moment
    print(f"\n{len(moments)} rebuilds, {killed} killed before their end, worst {worst:.2f} s")
    return killed


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_rebuild_that_is_killed_at_twenty_random_moments(served):
    rng, before = random.Random(11), runs_in(served)
    forget_all(served)
    whole = rebuilt(served)
    assert whole.code == 0, whole.output

    moments = [rng.uniform(0.0, whole.seconds) for _ in range(20)]

    assert kill_rebuilds(served, moments, before) > 12
