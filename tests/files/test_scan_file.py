from __future__ import annotations

import json
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from offbragg import kernels
from offbragg.errors import RejectedFrame, ScanFileError
from offbragg.files import ScanFile, find_scan_file, scan_layout
from offbragg.files.checked import CheckedCounts
from offbragg.files.salvage import rebuild_if_torn
from offbragg.files.scan_writer import ScanWriter
from offbragg.files.superblock import read_superblock
from offbragg.frame import Frame, PackedFrame
from offbragg.ledger import FrameStatus

# A process of its own that writes frames as fast as it can, saying each number once it is stored.
WRITER = """
import json, sys
import numpy as np
from offbragg import kernels
from offbragg.files.scan_writer import ScanWriter
from offbragg.frame import Frame, PackedFrame
directory, document, path, first, batch = sys.argv[1:]
start = json.loads(document)
scan = ScanWriter.resume(path) if path else ScanWriter.create(directory, start=start)
print(scan.path, flush=True)
def counts_of(number):
    counts = np.full(scan.shape, number, np.int32)
    counts[0] = np.arange(scan.shape[1]) * (number + 1)
    return counts
def packed(number):
    counts = counts_of(number)
    chunk = kernels.encode(counts, np.empty(kernels.chunk_bound(counts.size), np.uint8))
    return PackedFrame(number, scan.shape, chunk, f"x_{number:05d}.cbf", time=1e9 + number)
batch = int(batch)
for number in range(int(first), scan.n_frames, batch):
    numbers = range(number, min(number + batch, scan.n_frames))
    if batch == 1:
        source = f"x_{number:05d}.cbf"
        scan.write_frame(Frame(number, counts_of(number)), source=source, time=1e9 + number)
    else:
        scan.write_frames([packed(n) for n in numbers])
    print(numbers[-1], flush=True)
    if sys.stdin.readline() == "":
        break
print("idle", flush=True)
sys.stdin.read()
"""


def written_by_writer(number: int, shape: tuple[int, int]) -> np.ndarray:
    counts = np.full(shape, number, np.int32)
    counts[0] = np.arange(shape[1]) * (number + 1)
    return counts


class Writer:
    """The writer process; `step` lets it go on to the next frame."""

    def __init__(
        self, directory: Path, start: dict, path: Path | str = "", first: int = 0, batch: int = 1
    ):
        document = json.dumps(start)
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, directory, document, path, str(first), str(batch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.lines: queue.Queue[str] = queue.Queue()
        self.listener = threading.Thread(target=self.listen)
        self.listener.start()
        self.path = Path(self.line())

    def listen(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line.strip())

    def line(self) -> str:
        return self.lines.get(timeout=60)

    def step(self) -> None:
        self.process.stdin.write("\n")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.listener.join()
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()


@pytest.fixture
def writer(tmp_path, start):
    writers: list[Writer] = []

    def begin(**options) -> Writer:
        writers.append(Writer(tmp_path, options.pop("start", start), **options))
        return writers[-1]

    yield begin
    for each in writers:
        if each.process.poll() is None:
            each.kill()


def end(scan: ScanFile, **changes) -> None:
    scan.finish(
        **({"time": 1.8e9, "exit_status": "success", "reason": "", "summary": {"a": 1}} | changes)
    )


def test_a_sweep_goes_in_and_comes_out(tmp_path, start, make_counts):
    scan = ScanWriter.create(tmp_path / "a" / "b", start=start)
    for number in (0, 1, 3, 2, 5):
        frame = Frame(number, make_counts(number), {"wavelength": 0.7}, f"{number:032x}", True)
        scan.write_frame(frame, source=f"x_{number:05d}.cbf", time=1e9 + number)
    scan.mark(4, "missing", "x_00004.cbf was not there")
    scan.set_values("monitor", [0, 5], [10.0, 20.0])
    scan.set_values("angle", 1, -4.2)
    end(scan, summary={"temperature": {"mean": 102.5}})

    with ScanFile.open(tmp_path / "a" / "b" / "f1.h5") as back:
        assert back.complete
        assert back.run == start["uid"]
        assert back.start == start
        assert back.sweep.to_dict() == start["sweep"]
        assert back.geometry.to_dict() == start["geometry"]
        assert back.sample.to_dict() == start["sample"]
        assert back.length == back.n_frames == 6
        assert back.summary == {"temperature": {"mean": 102.5}}
        assert back.exit_status == "success"
        assert back.ledger.problems() == [(4, FrameStatus.MISSING, "x_00004.cbf was not there")]
        for number in (0, 1, 2, 3, 5):
            np.testing.assert_array_equal(back.stack.counts[number], make_counts(number))
        np.testing.assert_array_equal(back.stack.counts[4], -1)
        values = back.frame_values()
    np.testing.assert_allclose(values["angle"], [-4.75, -4.2, -3.75, -3.25, -2.75, -2.25])
    assert values["angle_source"].tolist() == ["commanded", "read", *["commanded"] * 4]
    assert values["md5"].tolist() == [f"{n:032x}" if n != 4 else "" for n in range(6)]
    assert values["source"][3] == "x_00003.cbf"
    np.testing.assert_array_equal(values["time"], 1e9 + np.array([0, 1, 2, 3, np.nan, 5]))
    np.testing.assert_array_equal(values["monitor"], [10, *[np.nan] * 4, 20])
    assert np.isnan(values["ring"]).all()
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [
        "f1.h5",
        "f1.h5.digest",
    ]


def test_the_mask_is_that_of_the_first_frame(tmp_path, start, make_counts):
    with ScanWriter.create(tmp_path, start=start) as scan:
        assert not scan.pixel_mask().any()
        scan.write_frame(Frame(2, make_counts(2), {"exposure_time": 0.1}), source="", time=1.0)
        mask = scan.pixel_mask()

    expected = np.zeros((20, 30), np.uint32)
    expected[7] = 1
    expected[3, 4] = 2
    np.testing.assert_array_equal(mask, expected)


def test_the_layout_of_the_file(tmp_path, start, make_counts):
    with ScanWriter.create(tmp_path, start=start) as scan:
        scan.write_frame(Frame(0, make_counts(0)), source="x", time=1.0)
        path = scan.path
    ScanWriter.resume(path).finish(time=1.8e9, exit_status="success", reason="", summary={})

    with h5py.File(path) as file:
        data = file["entry/data/data"]
        assert data.chunks == (1, 20, 30)
        assert data.maxshape == (6, 20, 30)
        assert data.fillvalue == -1
        assert data.dtype == "<i4"
        assert list(data._filters) == ["32008"]
        variable: list[str] = []

        def look(name, item):
            kinds = [item.dtype] if isinstance(item, h5py.Dataset) else []
            kinds += [item.attrs.get_id(key).dtype for key in item.attrs]
            if any(
                h5py.check_string_dtype(k) and h5py.check_string_dtype(k).length is None
                for k in kinds
            ):
                variable.append(name)

        file.visititems(look)
        assert variable == []
        assert file["entry/entry_identifier"][()].decode() == start["uid"]
        for column, kind in (
            ("status", "S8"),
            ("reason", "S160"),
            ("source", "S200"),
            ("md5", "S32"),
            ("crc64", "S16"),
            ("number", "i4"),
            ("time", "f8"),
        ):
            assert file[f"entry/frames/{column}"].dtype == kind
    assert path.read_bytes()[8] == 3  # superblock version: readable from HDF5 1.10 on


def test_next_free_number_and_never_in_place_of_another(tmp_path, start):
    (tmp_path / "f2.h5").write_text("somebody else's")

    with (
        ScanWriter.create(tmp_path, start=start) as first,
        ScanWriter.create(tmp_path, start=start | {"uid": "other"}) as second,
    ):
        assert (first.path.name, second.path.name) == ("f1.h5", "f3.h5")
        assert find_scan_file(tmp_path, "other") == second.path
        assert find_scan_file(tmp_path, start["uid"]) == first.path
        assert find_scan_file(tmp_path, "unknown") is None
    assert (tmp_path / "f2.h5").read_text() == "somebody else's"
    assert find_scan_file(tmp_path / "nowhere", "x") is None


@pytest.mark.parametrize("key", ["uid", "time", "sweep", "sample", "geometry"])
def test_a_start_document_without_what_is_needed_is_refused(tmp_path, start, key):
    del start[key]

    with pytest.raises(ScanFileError, match=f"'{key}'"):
        ScanWriter.create(tmp_path, start=start)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_known_is_absent(tmp_path, start):
    for key in ("temperature", "proposal", "per_frame", "beamline_id"):
        del start[key]
    start["sample"] = {"name": "a", "label": "b"}
    start["detector"] = {"shape": [20, 30]}

    with ScanWriter.create(tmp_path, start=start) as scan:
        path = scan.path

    with ScanFile.open(path) as back:
        absent = [
            "sample/temperature",
            "sample/unit_cell",
            "sample/ub_matrix",
            "sample/chemical_formula",
            "instrument/attenuator",
            "instrument/detector/bit_depth_readout",
            "instrument/detector/saturation_value",
            "instrument/detector/sensor_thickness",
            "instrument/detector/threshold_energy",
            "monitor",
            "experiment_identifier",
        ]
        assert [name for name in absent if name in back._get("/entry")] == []
        # NXmx asks for these two
        assert back.text("/entry/instrument/name") == "not recorded"
        assert back.text("/entry/source/name") == "not recorded"


def test_a_directory_that_cannot_be_written(tmp_path, start):
    (tmp_path / "file").write_text("")

    with pytest.raises(ScanFileError, match="no scan file can be made in"):
        ScanWriter.create(tmp_path / "file" / "x", start=start)


@pytest.mark.parametrize(
    "counts",
    [
        np.zeros((30, 20), np.int32),
        np.zeros((1, 30), np.int32),
        np.zeros((20, 31), np.int32),
    ],
)
def test_another_shape_is_refused_and_changes_nothing(tmp_path, start, make_counts, counts):
    with ScanWriter.create(tmp_path, start=start) as scan:
        scan.write_frame(Frame(0, make_counts(0)), source="x", time=1.0)

        with pytest.raises(RejectedFrame, match="expected int32, 20 × 30"):
            scan.write_frame(Frame(1, counts), source="y", time=1.0)

        assert scan.length == 1
        assert scan.ledger.statuses[1] is FrameStatus.PENDING


def test_numbers_outside_the_sweep_are_refused(tmp_path, start, make_counts):
    with ScanWriter.create(tmp_path, start=start) as scan:
        with pytest.raises(RejectedFrame, match="frame 6"):
            scan.write_frame(Frame(6, make_counts(6)), source="x", time=1.0)
        with pytest.raises(ScanFileError, match="frame 6"):
            scan.mark(6, "missing", "")
        with pytest.raises(ScanFileError, match="'monitor'"):
            scan.set_values("monitor", [5, 6], 1.0)
        with pytest.raises(ScanFileError, match="'gain'"):
            scan.set_values("gain", [0], 1.0)
        with pytest.raises(ScanFileError, match="'number'"):
            scan.set_values("number", [0], 1.0)
        scan.set_values("monitor", [], [])


def test_the_same_frame_twice_is_one_and_another_is_refused(tmp_path, start, make_counts):
    with ScanWriter.create(tmp_path, start=start) as scan:
        scan.write_frame(Frame(1, make_counts(1)), source="x_1.cbf", time=1.0)

        scan.write_frame(Frame(1, make_counts(1)), source="copy.cbf", time=2.0)
        with pytest.raises(RejectedFrame, match=r"other pixels than the stored one \(x_1\.cbf\)"):
            scan.write_frame(Frame(1, make_counts(2)), source="copy.cbf", time=2.0)
        with pytest.raises(ScanFileError, match="frame 1 is stored"):
            scan.mark(1, "missing", "")

        np.testing.assert_array_equal(scan.stack.counts[1], make_counts(1))
        assert scan.frame_values()["time"][1] == 1.0


def test_a_late_frame_fills_its_own_row(tmp_path, start, make_counts):
    with ScanWriter.create(tmp_path, start=start) as scan:
        scan.mark(1, "missing", "late")
        scan.write_frame(Frame(2, make_counts(2)), source="x", time=1.0)
        assert scan.ledger.settled() == 0
        np.testing.assert_array_equal(scan.stack.counts[1], -1)

        scan.write_frame(Frame(1, make_counts(1)), source="x", time=1.0)

        np.testing.assert_array_equal(scan.stack.counts[1], make_counts(1))
        np.testing.assert_array_equal(scan.stack.counts[2], make_counts(2))
        assert scan.ledger.problems() == []


def test_marks_are_only_for_what_is_not_there(tmp_path, start):
    with ScanWriter.create(tmp_path, start=start) as scan:
        with pytest.raises(ScanFileError, match="missing or rejected"):
            scan.mark(0, "stored", "")
        scan.mark(0, FrameStatus.REJECTED, "wrong MD5 " + "µ" * 300)

        assert scan.ledger.statuses[0] is FrameStatus.REJECTED
        assert scan.ledger.reasons[0].startswith("wrong MD5 µ")
        assert len(scan.ledger.reasons[0].encode()) <= 160


def test_what_is_pending_at_the_end_is_missing(tmp_path, start, make_counts):
    scan = ScanWriter.create(tmp_path, start=start)
    scan.write_frame(Frame(0, make_counts(0)), source="x", time=1.0)
    end(scan, exit_status="abort", reason="beam dump")

    with ScanFile.open(scan.path) as back:
        assert back.complete
        assert back.length == 6
        assert back.ledger.counts() == {"pending": 0, "stored": 1, "missing": 5, "rejected": 0}
        assert "abort, beam dump" in back.ledger.reasons[3]
        np.testing.assert_array_equal(back.stack.counts[1:], -1)


def test_a_summary_too_long_is_refused_and_nothing_is_lost(tmp_path, start):
    scan = ScanWriter.create(tmp_path, start=start)

    with pytest.raises(ScanFileError, match="room for"):
        end(scan, summary={"x": "y" * 20_000})
    end(scan)

    with ScanFile.open(scan.path) as back:
        assert back.complete


def test_readers_cannot_write_and_closed_files_say_so(tmp_path, start, make_counts):
    scan = ScanWriter.create(tmp_path, start=start)
    with ScanFile.open(scan.path) as reader:
        for name in ("write_frame", "write_frames", "set_values", "mark", "finish"):
            assert not hasattr(reader, name)
    scan.close()
    with pytest.raises(ScanFileError, match="is closed"):
        _ = scan.length
    with pytest.raises(FileNotFoundError):
        ScanFile.open(tmp_path / "f7.h5")


def test_whoever_else_reads_a_finished_file_frames_stay_what_they_are(tmp_path, start, make_counts):
    """Of two handles of a dataset in one process, a refresh of one spoils the other."""
    n = start["sweep"]["n_frames"]
    counts = [make_counts(number) for number in range(n)]
    with ScanWriter.create(tmp_path, start=start) as scan:
        for number in range(n):
            scan.write_frame(Frame(number, counts[number]), source="x", time=1.0)
        scan.finish(time=1.0, exit_status="success", reason="", summary={})

    with ScanFile.open(scan.path) as one, ScanFile.open(scan.path) as other:
        stacks = [one.stack, one.stack, other.stack]
        one.frame_values()
        stacks += [one.stack, other.stack]

        for stack in stacks:
            for number in range(n):
                np.testing.assert_array_equal(stack.counts[number], counts[number])


def test_one_thread_writes_and_others_read_the_same_file(tmp_path, start, make_counts):
    start["sweep"]["n_frames"] = 60
    scan = ScanWriter.create(tmp_path, start=start)
    seen: list[int] = []
    wrong: list[str] = []
    finished = threading.Event()

    def read() -> None:
        last = 0
        while not finished.is_set():
            with ScanFile.open(scan.path) as reader:
                settled = reader.ledger.settled()
                if settled < last:
                    wrong.append(f"{settled} after {last}")
                if settled > last:
                    seen.append(settled)
                    got = reader.stack.counts[settled - 1]
                    if not np.array_equal(got, make_counts(settled - 1)):
                        wrong.append(f"frame {settled - 1}")
                last = settled

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        held = ScanFile.open(scan.path)
        for number in range(60):
            scan.write_frame(Frame(number, make_counts(number)), source="x", time=1.0)
        assert held.length == 60
        # the end, while others still hold the file: it must be clean for everybody afterwards
        end(scan)
        assert not read_superblock(scan.path).writing
        deadline = time.monotonic() + 10
        while (not seen or seen[-1] < 60) and time.monotonic() < deadline:
            pass
    finally:
        finished.set()
        for thread in threads:
            thread.join()
    assert held.complete
    held.close()

    assert wrong == []
    assert seen[-1] == 60
    assert not read_superblock(scan.path).writing
    with h5py.File(scan.path) as plain:
        np.testing.assert_array_equal(plain["entry/data/data"][59], make_counts(59))


def test_another_process_sees_it_grow(writer, start):
    process = writer()
    lengths = []
    with ScanFile.open(process.path) as reader:
        for number in range(6):
            assert process.line() == str(number)
            lengths.append((reader.length, reader.ledger.settled()))
            np.testing.assert_array_equal(
                reader.stack.counts[number], written_by_writer(number, reader.shape)
            )
            assert reader.frame_values()["time"][number] == 1e9 + number
            assert not reader.complete
            process.step()

    assert lengths == [(n, n) for n in range(1, 7)]


def test_two_readers_of_one_process_see_it_grow_and_keep_what_they_saw(writer, start):
    process = writer()
    stacks = []
    with ScanFile.open(process.path) as one, ScanFile.open(process.path) as other:
        for number in range(6):
            assert process.line() == str(number)
            stacks += [one.stack, other.stack]
            assert one.length == other.length == number + 1
            for stack in stacks:
                for n in range(len(stack)):
                    np.testing.assert_array_equal(stack.counts[n], written_by_writer(n, one.shape))
            process.step()
        one.close()

        np.testing.assert_array_equal(stacks[-1].counts[5], written_by_writer(5, other.shape))
    with ScanFile.open(process.path) as again:
        assert again.length == 6


def test_two_writers_are_one_too_many(writer, tmp_path, start):
    process = writer()

    with pytest.raises(ScanFileError, match="being written by another process"):
        ScanWriter.resume(process.path)


@pytest.mark.parametrize("held_by_reader", [False, True])
def test_a_killed_writer_is_resumed_with_all_that_it_said(writer, start, held_by_reader):
    start["sweep"]["n_frames"] = 40
    process = writer(start=start)
    for number in range(17):
        assert process.line() == str(number)
        process.step()
    reader = None
    if held_by_reader:  # in a process of its own, as the catalog's server is
        code = (
            "import sys, offbragg.files as f\n"
            "s = f.ScanFile.open(sys.argv[1]); print(s.length, flush=True); sys.stdin.read()"
        )
        reader = subprocess.Popen(
            [sys.executable, "-c", code, process.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert int(reader.stdout.readline()) >= 17
    process.kill()
    assert read_superblock(process.path).writing
    assert find_scan_file(process.path.parent, start["uid"]) == process.path

    scan = ScanWriter.resume(process.path)

    statuses = scan.ledger.statuses
    assert all(status is FrameStatus.STORED for status in statuses[:17])
    for number in range(scan.ledger.settled(), 39):
        counts = written_by_writer(number, scan.shape)
        scan.write_frame(Frame(number, counts), source="x", time=2.0)
    end(scan)
    if reader is not None:
        reader.communicate()
    with h5py.File(process.path) as plain:
        for number in range(39):
            np.testing.assert_array_equal(
                plain["entry/data/data"][number], written_by_writer(number, (20, 30))
            )
        np.testing.assert_array_equal(plain["entry/data/data"][39], -1)
    assert sorted(path.name for path in process.path.parent.iterdir()) == ["f1.h5", "f1.h5.digest"]


@pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.slow), 7])
def test_killed_at_any_moment_nothing_acknowledged_is_lost(writer, start, batch):
    start["sweep"]["n_frames"] = 5000
    rng = np.random.default_rng(7)
    path: Path | str = ""
    promised: set[int] = set()
    for _ in range(3):
        if path:
            rebuild_if_torn(Path(path), start)  # needed once in some hundred runs
        process = writer(start=start, path=path, first=max(promised, default=-1) + 1, batch=batch)
        path = process.path
        last = int(process.line())
        for _ in range(200):  # let it run: the moment of the kill is its own affair
            process.step()
        target = last + int(rng.integers(5, 150))
        while last < target:
            last = int(process.line())
        process.kill()
        promised |= set(range(max(promised, default=-1) + 1, last + 1))

        with ScanFile.open(path) as reader:
            values = reader.frame_values()["status"]
            assert all(values[n] == "stored" for n in promised)

    rebuild_if_torn(Path(path), start)
    with ScanWriter.resume(path) as scan:
        statuses = scan.ledger.statuses
        assert all(statuses[n] is FrameStatus.STORED for n in promised)
        for number in range(scan.length):
            counts = scan.stack.counts[number]
            if statuses[number] is FrameStatus.STORED:
                np.testing.assert_array_equal(counts, written_by_writer(number, scan.shape))


def test_a_torn_index_is_an_error_and_not_waited_for(tmp_path, start, make_counts):
    """As a kill in the middle of a write leaves it; HDF5 would read it again for ever."""
    scan = ScanWriter.create(tmp_path, start=start)
    for number in range(3):
        scan.write_frame(Frame(number, make_counts(number)), source="x", time=1.0)
    scan.close()
    raw = bytearray(scan.path.read_bytes())
    at = raw.index(b"FADB") + 30
    raw[at] ^= 0xFF
    scan.path.write_bytes(raw)

    with pytest.raises(ScanFileError, match=r"frame index .* is corrupt .*\n.*--once --repair"):
        ScanWriter.resume(scan.path)


def test_a_writer_waits_for_a_reader_of_its_own_process(tmp_path, start, make_counts, monkeypatch):
    scan = ScanWriter.create(tmp_path, start=start)
    scan.close()
    reader = ScanFile.open(scan.path)
    closing = threading.Timer(0.2, reader.close)
    closing.start()

    with ScanWriter.resume(scan.path) as again:
        again.write_frame(Frame(0, make_counts(0)), source="x", time=1.0)
        assert again.length == 1

    closing.join()
    with ScanFile.open(scan.path):
        monkeypatch.setattr("offbragg.files.scan_file._PATIENCE", 0.05)
        with pytest.raises(ScanFileError, match="read-only"):
            ScanWriter.resume(scan.path)


def test_pixels_of_a_frame_that_was_never_acknowledged_read_as_missing(tmp_path, start):
    scan = ScanWriter.create(tmp_path, start=start)
    # what a writer leaves that died between the pixels and the word
    data = scan._get("/entry/data/data")
    data.resize(3, axis=0)
    data[2] = np.full((20, 30), 77, np.int32)
    scan.close()

    scan = ScanWriter.resume(scan.path)
    scan.mark(2, "missing", "not there")
    end(scan)

    with ScanFile.open(scan.path) as back:
        np.testing.assert_array_equal(back.stack.counts[2], -1)


def test_a_full_disk_leaves_no_phantom_frame(tmp_path, start, make_counts, monkeypatch):
    scan = ScanWriter.create(tmp_path, start=start)
    scan.write_frame(Frame(0, make_counts(0)), source="x", time=1.0)

    def full(self, *_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(h5py.Dataset, "__setitem__", full)
        with pytest.raises(ScanFileError, match="No space left"):
            scan.write_frame(Frame(1, make_counts(1)), source="x", time=1.0)

    assert scan.length == 1
    scan.write_frame(Frame(1, make_counts(1)), source="x", time=1.0)
    end(scan)
    with ScanFile.open(scan.path) as back:
        assert back.ledger.counts()["stored"] == 2


def packed(number: int, counts: np.ndarray, **facts) -> PackedFrame:
    chunk = kernels.encode(counts, np.empty(kernels.chunk_bound(counts.size), np.uint8))
    return PackedFrame(number, counts.shape, chunk, f"x_{number}.cbf", **facts)


def test_frames_that_are_compressed_already_are_stored_together(tmp_path, start, make_counts):
    with ScanWriter.create(tmp_path, start=start) as scan:
        first = make_counts(1)
        first[3, 4], first[5] = -2, -1

        scan.write_frames(
            [
                packed(4, make_counts(4)),
                packed(1, first, text="# Exposure_time 0.1 s", md5="0" * 32, time=1e9),
                packed(2, make_counts(2), time=2e9),
            ]
        )

        assert [str(status) for status in scan.ledger.statuses] == [
            "pending", "stored", "stored", "pending", "stored", "pending"
        ]  # fmt: skip
        values = scan.frame_values()
        np.testing.assert_array_equal(
            values["source"][:5], ["", "x_1.cbf", "x_2.cbf", "", "x_4.cbf"]
        )
        np.testing.assert_array_equal(values["time"][:5], [np.nan, 1e9, 2e9, np.nan, np.nan])
        assert values["md5"][1] == "0" * 32
        np.testing.assert_array_equal(scan.stack.counts[3], -1)
        for number, counts in ((1, first), (2, make_counts(2)), (4, make_counts(4))):
            np.testing.assert_array_equal(scan.stack.counts[number], counts)
        mask = scan.pixel_mask()
        assert mask[3, 4] == 2
        np.testing.assert_array_equal(mask[5], 1)
        header = json.loads(bytes(scan._get("/entry/run/first_header")[()]))
        assert header["source_frame"] == 1
        assert header["exposure_time"] == 0.1


def test_together_as_alone_the_same_is_no_error_and_another_is(tmp_path, start, make_counts):
    with ScanWriter.create(tmp_path, start=start) as scan:
        scan.write_frame(Frame(1, make_counts(1)), source="x_1.cbf", time=1.0)
        scan.write_frames([packed(2, make_counts(2))])

        scan.write_frames([packed(n, make_counts(n)) for n in (1, 2, 3)])
        with pytest.raises(RejectedFrame, match=r"other pixels than the stored one \(x_1\.cbf\)"):
            scan.write_frames([packed(0, make_counts(0)), packed(1, make_counts(5))])
        with pytest.raises(RejectedFrame, match="comes twice"):
            scan.write_frames([packed(0, make_counts(0)), packed(0, make_counts(0))])
        with pytest.raises(RejectedFrame, match="frame 6"):
            scan.write_frames([packed(0, make_counts(0)), packed(6, make_counts(6))])
        with pytest.raises(RejectedFrame, match="expected int32, 20 × 30"):
            scan.write_frames([packed(0, make_counts(0)), packed(4, np.zeros((30, 20), np.int32))])

        assert scan.ledger.counts()["stored"] == 3
        assert scan.ledger.statuses[0] is FrameStatus.PENDING
        assert scan.frame_values()["time"][1] == 1.0


@pytest.mark.parametrize("fails", ["write_direct_chunk", "flush"])
def test_a_full_disk_leaves_no_phantom_of_frames_together(
    tmp_path, start, make_counts, monkeypatch, fails
):
    scan = ScanWriter.create(tmp_path, start=start)
    scan.write_frames([packed(0, make_counts(0))])
    written = []

    def full(*_):
        written.append(1)
        if fails == "flush" or len(written) == 2:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if fails == "flush":
            patch.setattr(ScanWriter, "_flush", full)
        else:
            kept = scan._get("/entry/data/data")
            patch.setitem(scan._kept, "/entry/data/data", Failing(kept, full))
        with pytest.raises(ScanFileError, match="No space left"):
            scan.write_frames([packed(n, make_counts(n)) for n in (1, 2, 3)])

    assert scan.length == 1
    scan.write_frames([packed(n, make_counts(n)) for n in (1, 2, 3)])
    end(scan)
    with ScanFile.open(scan.path) as back:
        assert back.ledger.counts()["stored"] == 4
        np.testing.assert_array_equal(back.stack.counts[3], make_counts(3))


class Failing:
    """A dataset whose chunks cannot be written."""

    def __init__(self, dataset: h5py.Dataset, write_direct_chunk) -> None:
        self._dataset = dataset
        self.id = SimpleNamespace(write_direct_chunk=write_direct_chunk)

    def __getattr__(self, name):
        return getattr(self._dataset, name)


def test_a_finished_file_can_take_a_late_frame(tmp_path, start, make_counts):
    scan = ScanWriter.create(tmp_path, start=start)
    end(scan)

    again = ScanWriter.resume(scan.path)
    again.write_frame(Frame(3, make_counts(3)), source="late.cbf", time=1.0)
    assert not again.complete
    end(again)

    with ScanFile.open(scan.path) as back:
        assert back.complete
        np.testing.assert_array_equal(back.stack.counts[3], make_counts(3))


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all" * 100])
def test_what_is_no_scan_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "f1.h5"
    path.write_bytes(content)

    with pytest.raises(ScanFileError, match=r"f1\.h5"):
        ScanFile.open(path)
    with pytest.raises(ScanFileError, match=r"f1\.h5"):
        ScanWriter.resume(path)
    assert path.read_bytes() == content


def test_another_hdf5_file_is_refused_by_name(tmp_path):
    path = tmp_path / "f1.h5"
    with h5py.File(path, "w") as file:
        file["x"] = 1

    with pytest.raises(ScanFileError, match=re.escape(str(path))):
        ScanFile.open(path)


def test_a_file_that_cannot_be_closed_can_be_resumed(tmp_path, start, monkeypatch):
    scan = ScanWriter.create(tmp_path, start=start)
    file = scan._file
    with monkeypatch.context() as full:
        full.setattr(type(file), "close", lambda _: _raise(RuntimeError("no space left")))
        with pytest.raises(ScanFileError, match="cannot be closed: no space left"):
            scan.close()
    file.close()

    ScanWriter.resume(scan.path).close()


def _raise(error: Exception) -> None:
    raise error


def test_a_frame_that_comes_late_while_it_is_read_is_not_called_damaged(
    tmp_path, start, make_counts
):
    with ScanWriter.create(tmp_path, start=start) as scan:
        scan.mark(2, FrameStatus.MISSING, "was not there")
        for number in (0, 1, 3):
            scan.write_frame(Frame(number, make_counts(number)), source="x", time=1.0)

        def rows_after_it_came():
            if scan.ledger.statuses[2] is not FrameStatus.STORED:
                scan.write_frame(Frame(2, make_counts(2)), source="x", time=1.0)
            return scan._read_rows()

        before = scan._read_rows()
        counts = CheckedCounts(scan._get(scan_layout.DATA), rows_after_it_came, scan.path)
        np.testing.assert_array_equal(counts[2], make_counts(2))
        counts._rows = before
        np.testing.assert_array_equal(counts[2], make_counts(2))
