"""The areaDetector plug-ins image1, Stats1, HDF1, TIFF1, ROI1 and Proc1.

Alive: EnableCallbacks, and with it what every plug-in tells of the last frame;
``image1:ArrayData``; the statistics, centroid and histogram of Stats1; HDF1 with Single, Capture
and Stream, LazyOpen, AutoSave, compression and SWMR. TIFF1, ROI1 and Proc1 take frames and tell of
them, no more. Every other setting is a record that is mirrored to its ``_RBV``.

The work is done by a process of its own (``frame_reader.py``) that is started when the first
plug-in is enabled; frames wait for it in one queue, whose overflow counts as dropped.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .file_names import c_format
from .records import Completion, Hook, Records, read_table

NAMES = ("image1", "Stats1", "HDF1", "TIFF1", "ROI1", "Proc1")
QUEUE = 200
INT32 = "Int32"
EPICS_EPOCH = 631152000  # POSIX s of 1990-01-01

log = logging.getLogger(__name__)


class ReaderProcess:
    """The process that reads frames, asked one thing at a time."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._shared: Any = None

    async def start(self) -> None:
        """Start it, unless it runs; done when it is ready."""
        async with self._turn:
            if self._process is not None and self._process.returncode is None:
                return
            memory = "/dev/shm"  # pixels pass through memory where there is such
            folder = memory if os.access(memory, os.W_OK) else None
            with tempfile.NamedTemporaryFile(prefix="offbragg-frame-", dir=folder) as shared:
                shared.truncate(4 * self.shape[0] * self.shape[1])
                self._shared = np.memmap(shared.name, np.int32, "r", shape=self.shape)
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "sim_iocs.frame_reader",
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**24,
                )  # fmt: skip
                await self._say({"shape": list(self.shape), "shared": shared.name})
                await self._hear()  # both have it mapped: it needs no name any more

    async def ask(self, do: str, **task: Any) -> dict[str, Any]:
        """Send one command; the answer holds ``failed`` if it could not be executed."""
        async with self._turn:
            if self._process is None:
                return {"failed": "the frame reader is not running"}
            await self._say({"do": do, **task})
            return await self._hear()

    def pixels(self) -> np.ndarray:
        """Copy the last frame that was asked for with ``image``."""
        return np.array(self._shared).ravel()

    async def _say(self, message: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        await self._process.stdin.drain()

    async def _hear(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the frame reader process is gone")
        return json.loads(line)

    async def stop(self) -> None:
        """End it; an open HDF5 file is closed."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            assert process.stdin is not None
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), 3.0)
            except TimeoutError:
                process.kill()
                await process.wait()


class Plugin:
    """Base of all plug-ins."""

    def __init__(self, name: str, rows: dict[str, dict[str, Any]], reader: ReaderProcess) -> None:
        self.records = Records(rows)
        self.reader = reader
        self.primed = False
        for key in self.records:
            if f"{key}_RBV" in self.records:
                self.records[key].on_put = self._mirror(key)
        self.records["EnableCallbacks"].on_put = self._on_enable
        self.records["ArrayCounter"].on_put = self._on_counter
        for key in self.records:
            self.records[key].asynchronous = self.records[key].on_put is not None

    @property
    def enabled(self) -> bool:
        """Whether frames are passed to it."""
        return self.records["EnableCallbacks"].index == 1

    @property
    def blocks(self) -> bool:
        """Whether the driver waits for it."""
        return self.enabled and self.records["BlockingCallbacks"].index == 1

    def wants(self) -> dict[str, Any]:
        """Return what the reader process has to do with each frame for this plug-in."""
        return {}

    def _mirror(self, name: str) -> Hook:
        async def put(value: Any) -> None:
            await self.records.post(**{name: value, f"{name}_RBV": value})

        return put

    async def _on_counter(self, value: int) -> None:
        await self.records.post(ArrayCounter=value, ArrayCounter_RBV=value)

    async def _on_enable(self, label: str) -> None:
        if label == "Enable":
            await self.reader.start()
        await self.records.post(EnableCallbacks=label, EnableCallbacks_RBV=label)

    async def drop(self) -> None:
        """Count a frame that found the queue full."""
        dropped = self.records.value("DroppedArrays") + 1
        await self.records.post(DroppedArrays=dropped, DroppedArrays_RBV=dropped)

    async def take(self, unique: int, taken: float, answer: dict[str, Any]) -> None:
        """Hand over a frame."""
        slow, fast = self.reader.shape
        epics = taken - EPICS_EPOCH
        if not self.primed:
            self.primed = True
            await self.records.post(
                DataType_RBV=INT32, NDimensions_RBV=2, ArraySize0_RBV=fast, ArraySize1_RBV=slow,
                ArraySize2_RBV=0, Dimensions_RBV=[fast, slow, 0, 0, 0, 0, 0, 0, 0, 0],
                Dim0SA_RBV=fast, Dim1SA_RBV=slow, CompressedSize_RBV=4 * fast * slow,
            )  # fmt: skip
        counter = self.records.value("ArrayCounter_RBV") + 1
        await self.records.post(
            UniqueId_RBV=unique, TimeStamp_RBV=epics, EpicsTSSec_RBV=int(epics),
            EpicsTSNsec_RBV=int(epics % 1.0 * 1e9), ExecutionTime_RBV=1e3 * answer["seconds"],
            ArrayCounter=counter, ArrayCounter_RBV=counter,
        )  # fmt: skip


class Image(Plugin):
    """Passes the pixels on to Channel Access."""

    def wants(self) -> dict[str, Any]:
        """Ask for the pixels."""
        return {"image": True}

    async def take(self, unique: int, taken: float, answer: dict[str, Any]) -> None:
        """Publish the pixels, then tell of them."""
        pixels = await asyncio.to_thread(self.reader.pixels)
        await self.records["ArrayData"].post(pixels)
        await super().take(unique, taken, answer)


class Stats(Plugin):
    """Statistics of each frame."""

    def wants(self) -> dict[str, Any]:
        """Ask for what is switched on."""
        value = self.records.value
        if value("ComputeStatistics") != "Yes":
            return {}
        with_centroid = value("ComputeCentroid") == "Yes"
        with_histogram = value("ComputeHistogram") == "Yes"
        return {
            "stats": {
                "background": value("BgdWidth"),
                "threshold": value("CentroidThreshold") if with_centroid else None,
                "histogram": (
                    [max(value("HistSize"), 1), value("HistMin"), value("HistMax")]
                    if with_histogram
                    else None
                ),
            }
        }

    async def take(self, unique: int, taken: float, answer: dict[str, Any]) -> None:
        """Publish the statistics, then tell of the frame."""
        await self.records.post(**answer.get("stats", {}))
        if "histogram" in answer:
            length = self.records["Histogram_RBV"].max_length
            counts, edges = answer["histogram"]
            await self.records.post(Histogram_RBV=counts[:length], HistogramX_RBV=edges[:length])
        await super().take(unique, taken, answer)


class Hdf5(Plugin):
    """Writes frames to HDF5 files by the rules of NDPluginFile."""

    def __init__(self, name: str, rows: dict[str, dict[str, Any]], reader: ReaderProcess) -> None:
        super().__init__(name, rows, reader)
        self._open = False
        self._captured = asyncio.Event()
        self._captured.set()
        for key, hook in {
            "FilePath": self._on_path, "CreateDirectory": self._on_create,
            "Capture": self._on_capture, "WriteFile": self._on_write, "ReadFile": self._on_read,
        }.items():  # fmt: skip
            self.records[key].on_put = hook
            self.records[key].asynchronous = True

    @property
    def _capturing(self) -> bool:
        return self.records["Capture_RBV"].index == 1

    def wants(self) -> dict[str, Any]:
        """Ask for the frame to be written or kept."""
        if not self._capturing:
            return {}
        mode = self.records.value("FileWriteMode")
        if mode == "Stream":
            return {"file": "append"} if self._open else {}
        return {"file": "keep"} if mode == "Capture" else {}

    async def before(self) -> None:
        """Open the file that waited for its first frame."""
        mode = self.records.value("FileWriteMode")
        if self._capturing and mode == "Stream" and not self._open:
            await self._open_file()

    async def take(self, unique: int, taken: float, answer: dict[str, Any]) -> None:
        """Count what was written, and end when that was all."""
        records, mode = self.records, self.records.value("FileWriteMode")
        await super().take(unique, taken, answer)
        if mode == "Single":
            if records.value("AutoSave") == "Yes":
                await self._write_whole(kept=False)
            return
        if not self._capturing or (mode == "Stream" and not self._open):
            return
        if "failed" in answer:
            await self._failed(answer["failed"])
            return
        captured = records.value("NumCaptured_RBV") + 1
        await records.post(NumCaptured_RBV=captured)
        if 0 < records.value("NumCapture") <= captured:
            await self._end_capture()
            if mode == "Capture" and records.value("AutoSave") == "Yes":
                await self._write_whole(kept=True)

    # -- puts ---------------------------------------------------------------------------------

    async def _on_path(self, path: str) -> None:
        asked = path if path.endswith("/") or not path else path + "/"
        await self.records.post(FilePath=path, FilePath_RBV=asked)
        await self._look_for_path()

    async def _on_create(self, depth: int) -> None:
        await self.records.post(CreateDirectory=depth, CreateDirectory_RBV=depth)

    async def _look_for_path(self) -> bool:
        path = self.records.value("FilePath_RBV")
        depth = -self.records.value("CreateDirectory_RBV")
        if path and depth > 0:
            folder = Path(path)
            missing = [p for p in (folder, *folder.parents) if not p.exists()]
            if len(missing) <= depth:
                with suppress(OSError):
                    folder.mkdir(parents=True, exist_ok=True)
        exists = bool(path) and Path(path).is_dir()
        await self.records.post(FilePathExists_RBV=int(exists))
        return exists

    async def _on_capture(self, label: str) -> Completion | None:
        records = self.records
        if label == "Done":
            if self._capturing:
                await self._end_capture()
            else:
                await records.post(Capture="Done")
            return None
        if self._capturing:
            return self._captured.wait
        mode, lazy = records.value("FileWriteMode"), records.value("LazyOpen") == "Yes"
        refused = not self.primed and not lazy
        if mode == "Single" or refused or not records.value("FilePath_RBV"):
            await records.post(Capture="Done", Capture_RBV="Done")  # silently, as the real one
            return None
        self._captured.clear()
        await records.post(
            Capture="Capture", WriteStatus="Write OK", WriteMessage="", NumCaptured_RBV=0
        )
        if mode == "Capture":
            await self.reader.ask("forget")
        elif lazy:
            await records.post(WriteMessage="Lazy Open...", WriteFile_RBV="Writing")
        elif not await self._open_file():
            await self._end_capture()
            return None
        await records.post(Capture_RBV="Capturing")
        return self._captured.wait

    async def _on_write(self, label: str) -> None:
        if label != "Write":
            return
        await self.records.post(WriteFile="Write")
        await self._write_whole(kept=self.records.value("FileWriteMode") == "Capture")
        await self.records.post(WriteFile="Done")

    async def _on_read(self, _label: str) -> None:
        await self.records.post(ReadFile="Done")

    # -- files --------------------------------------------------------------------------------

    async def _next_name(self) -> str:
        records, value = self.records, self.records.value
        await self._look_for_path()
        name = c_format(
            value("FileTemplate"), value("FilePath_RBV"), value("FileName"), value("FileNumber")
        )
        await records.post(FullFileName_RBV=name)
        if value("AutoIncrement") == "Yes":
            number = value("FileNumber") + 1
            await records.post(FileNumber=number, FileNumber_RBV=number)
        return name

    def _options(self) -> dict[str, Any]:
        value = self.records.value
        return {
            "compression": value("Compression"), "zlevel": value("ZLevel"),
            "swmr": value("SWMRMode") == "On",
        }  # fmt: skip

    async def _open_file(self) -> bool:
        name = await self._next_name()
        answer = await self.reader.ask("open", path=name, **self._options())
        if "failed" in answer:
            await self._failed(f"Error opening file {name}")
            return False
        self._open = True
        swmr = "Active" if self.records.value("SWMRMode") == "On" else "Off"
        await self.records.post(
            WriteFile_RBV="Writing", WriteStatus="Write OK", WriteMessage="", SWMRActive_RBV=swmr
        )
        return True

    async def _failed(self, why: str) -> None:
        await self.records.post(WriteStatus="Write error", WriteMessage=why[:255])

    async def _end_capture(self) -> None:
        if self._open:
            self._open = False
            await self.reader.ask("close")
        await self.records.post(
            WriteFile_RBV="Done", SWMRActive_RBV="Off", Capture_RBV="Done", Capture="Done"
        )
        self._captured.set()

    async def _write_whole(self, *, kept: bool) -> None:
        if not self.primed:
            await self._failed("No frame has been seen")
            return
        name = await self._next_name()
        await self.records.post(WriteFile_RBV="Writing")
        answer = await self.reader.ask("write", path=name, kept=kept, **self._options())
        if "failed" in answer:
            await self._failed(f"Error opening file {name}")
        else:
            await self.records.post(WriteStatus="Write OK", WriteMessage="")
        await self.records.post(WriteFile_RBV="Done")


KINDS: dict[str, type[Plugin]] = {"image1": Image, "Stats1": Stats, "HDF1": Hdf5}


class Plugins:
    """All plug-ins behind one driver, and the frames that wait for them."""

    def __init__(self, shape: tuple[int, int]) -> None:
        tables: dict[str, Any] = read_table("plugins.json")
        self.reader = ReaderProcess(shape)
        self.plugins: dict[str, Plugin] = {}
        slow, fast = shape
        for name in NAMES:
            rows = {key: dict(row) for key, row in (tables["common"] | tables[name]).items()}
            for key, row in rows.items():
                if row.get("count") in (1475, 1679) and key.startswith("Profile"):
                    row["count"] = fast if "X" in key else slow
            if name == "image1":
                rows["ArrayData"]["count"] = fast * slow
            self.plugins[name] = KINDS.get(name, Plugin)(name, rows, self.reader)
        self._queue: asyncio.Queue[tuple[str, int, float]] = asyncio.Queue(QUEUE)
        self._working: asyncio.Task[None] | None = None

    def records(self, prefix: str) -> dict[str, Any]:
        """Every record under its full name."""
        named: dict[str, Any] = {}
        for name, plugin in self.plugins.items():
            named |= plugin.records.named(f"{prefix}{name}:")
        return named

    async def push(self, path: str, unique: int, taken: float) -> None:
        """Pass a frame on; waits only for a plug-in with BlockingCallbacks."""
        enabled = [plugin for plugin in self.plugins.values() if plugin.enabled]
        if not enabled:
            return
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        try:
            self._queue.put_nowait((path, unique, taken))
        except asyncio.QueueFull:
            for plugin in enabled:
                await plugin.drop()
        if any(plugin.blocks for plugin in enabled):
            await self.settled()

    async def settled(self) -> None:
        """Wait until no frame is under way."""
        await self._queue.join()

    async def _work(self) -> None:
        while True:
            path, unique, taken = await self._queue.get()
            try:
                await self._handle(path, unique, taken)
            except Exception:
                log.exception("plug-ins lost frame %s", path)
            finally:
                self._queue.task_done()

    async def _handle(self, path: str, unique: int, taken: float) -> None:
        enabled = [plugin for plugin in self.plugins.values() if plugin.enabled]
        task: dict[str, Any] = {}
        for plugin in enabled:
            if isinstance(plugin, Hdf5):
                await plugin.before()
            task |= plugin.wants()
        answer = await self.reader.ask("frame", path=path, unique=unique, taken=taken, **task)
        for plugin in enabled:
            await plugin.take(unique, taken, answer)

    async def stop(self) -> None:
        """End what runs."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)
        await self.reader.stop()
