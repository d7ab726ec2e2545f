"""The process in which the driver's plug-ins do their heavy work.

The IOC names a frame file; this process decodes it, puts the pixels where the IOC can map them,
computes statistics and appends to the HDF5 file. So a 2M frame never keeps Channel Access waiting.
One JSON object per line comes in on stdin and one answer per line goes out on stdout; when stdin
closes, the parent is gone and so is this process.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from fabio.compression import decByteOffset
from numpy.typing import NDArray

from .cbf import cbf_layout
from .tiff import HEADER_SIZE

EPICS_EPOCH = 631152000  # POSIX s of 1990-01-01
PERFORMANCE = 5  # columns of ADCore's performance/timestamp


def read_counts(path: Path, shape: tuple[int, int]) -> NDArray[np.int32]:
    """Read the pixels of a frame file as the driver does; what is not there is 0."""
    content = path.read_bytes()
    counts = np.zeros(shape[0] * shape[1], np.int32)
    if path.suffix.lower() == ".cbf":
        layout = cbf_layout(content)
        if layout is not None:
            binary = content[layout.start : layout.start + layout.size]
            with suppress(ValueError, RuntimeError, IndexError):
                found = np.asarray(decByteOffset(binary, size=counts.size)).astype(np.int32)
                counts[: found.size] = found.ravel()[: counts.size]
    else:
        pixels = content[HEADER_SIZE : HEADER_SIZE + counts.nbytes]
        found = np.frombuffer(pixels[: len(pixels) // 4 * 4], "<i4")
        counts[: found.size] = found
    return counts.reshape(shape)


def statistics(counts: NDArray[np.int32], background: int) -> dict[str, float]:
    """Return what Stats1 reports of a frame; names are those of its records."""
    low, high = int(counts.argmin()), int(counts.argmax())
    width = counts.shape[1]
    total = float(counts.sum(dtype=np.float64))
    edges = [
        counts[:, :background],
        counts[:, -background:],
        counts[:background],
        counts[-background:],
    ]
    n_edge = sum(edge.size for edge in edges) if background > 0 else 0
    mean_edge = sum(float(edge.sum(dtype=np.float64)) for edge in edges) / n_edge if n_edge else 0.0
    return {
        "MinValue_RBV": float(counts.flat[low]), "MinX_RBV": low % width, "MinY_RBV": low // width,
        "MaxValue_RBV": float(counts.flat[high]), "MaxX_RBV": high % width,
        "MaxY_RBV": high // width, "MeanValue_RBV": total / counts.size, "Total_RBV": total,
        "Net_RBV": total - mean_edge * counts.size, "Sigma_RBV": float(counts.std()),
    }  # fmt: skip


def centroid(counts: NDArray[np.int32], threshold: float) -> dict[str, float]:
    """Return the centroid of the counts at or above a threshold, and their widths."""
    weight = np.where(counts >= threshold, counts, 0).astype(np.float64)
    total = weight.sum()
    if total <= 0.0:
        return dict.fromkeys(
            ("CentroidX_RBV", "CentroidY_RBV", "SigmaX_RBV", "SigmaY_RBV", "CentroidTotal_RBV"), 0.0
        )
    found = {"CentroidTotal_RBV": float(total)}
    for axis, name in ((0, "X"), (1, "Y")):
        profile = weight.sum(axis=axis)
        place = np.arange(profile.size)
        mean = float(profile @ place / total)
        found[f"Centroid{name}_RBV"] = mean
        found[f"Sigma{name}_RBV"] = float(np.sqrt(max(profile @ (place - mean) ** 2 / total, 0.0)))
    return found


class Hdf5File:
    """One HDF5 file with ADCore's default layout."""

    def __init__(self, path: Path, shape: tuple[int, int], options: dict[str, Any]) -> None:
        swmr = bool(options.get("swmr"))
        self.file = h5py.File(path, "w", libver="latest" if swmr else None)
        self._began = time.monotonic()
        entry = self._group(self.file, "entry", "NXentry")
        data = self._group(entry, "data", "NXdata")
        instrument = self._group(entry, "instrument", "NXinstrument")
        detector = self._group(instrument, "detector", "NXdetector")
        attributes = self._group(instrument, "NDAttributes", "NXcollection")
        performance = self._group(instrument, "performance", "NXcollection")
        self.data = data.create_dataset(
            "data", (0, *shape), "<i4", maxshape=(None, *shape), chunks=(1, *shape),
            **_filter(options.get("compression", "None"), options.get("zlevel", 6)),
        )  # fmt: skip
        self.data.attrs["signal"] = np.int32(1)
        detector["data"] = self.data
        self._columns = {
            name: attributes.create_dataset(name, (0,), kind, maxshape=(None,), chunks=(1024,))
            for name, kind in (
                ("NDArrayUniqueId", "<i4"), ("NDArrayTimeStamp", "<f8"),
                ("NDArrayEpicsTSSec", "<u4"), ("NDArrayEpicsTSnSec", "<u4"),
            )
        }  # fmt: skip
        self._timing = performance.create_dataset(
            "timestamp", (0, PERFORMANCE), "<f8", maxshape=(None, PERFORMANCE),
            chunks=(1024, PERFORMANCE),
        )  # fmt: skip
        self._swmr = swmr
        if swmr:
            self.file.swmr_mode = True

    @staticmethod
    def _group(parent: h5py.Group, name: str, kind: str) -> h5py.Group:
        group = parent.create_group(name)
        group.attrs["NX_class"] = kind
        return group

    def append(self, counts: NDArray[np.int32], unique: int, taken: float) -> None:
        """Append one frame."""
        began = time.monotonic()
        n = self.data.shape[0]
        self.data.resize(n + 1, axis=0)
        self.data[n] = counts
        epics = taken - EPICS_EPOCH
        values = {
            "NDArrayUniqueId": unique, "NDArrayTimeStamp": epics, "NDArrayEpicsTSSec": int(epics),
            "NDArrayEpicsTSnSec": int(epics % 1.0 * 1e9),
        }  # fmt: skip
        for name, column in self._columns.items():
            column.resize(n + 1, axis=0)
            column[n] = values[name]
        now = time.monotonic()
        self._timing.resize(n + 1, axis=0)
        since = now - self._began
        self._timing[n] = (now - began, since, now - began, since / (n + 1), (n + 1) / since)
        if self._swmr:
            self.file.flush()

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _filter(compression: str, level: int) -> dict[str, Any]:
    if compression == "zlib":
        return {"compression": "gzip", "compression_opts": min(max(level, 0), 9)}
    if compression in ("Blosc", "BSLZ4", "LZ4"):
        import hdf5plugin  # only who asks for it waits for it

        kinds = {"Blosc": hdf5plugin.Blosc, "BSLZ4": hdf5plugin.Bitshuffle, "LZ4": hdf5plugin.LZ4}
        return dict(kinds[compression]())
    return {}


class Reader:
    """Executes commands, one after the other."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._shape = tuple(options["shape"])
        self._shared = np.memmap(options["shared"], np.int32, "r+", shape=self._shape)
        self._file: Hdf5File | None = None
        self._kept: list[tuple[NDArray[np.int32], int, float]] = []
        self._last: tuple[NDArray[np.int32], int, float] | None = None

    def frame(self, task: dict[str, Any]) -> dict[str, Any]:
        """Read a frame, and do with it what the enabled plug-ins want.

        The task has ``path``, ``unique``, ``taken`` (POSIX s) and what is wanted: ``image``,
        ``stats`` ({"background", "threshold" or None, "histogram": (size, min, max) or None}),
        ``file`` (None, "append", "keep").
        """
        counts = read_counts(Path(task["path"]), self._shape)  # type: ignore[arg-type]
        self._last = (counts, task["unique"], task["taken"])
        answer: dict[str, Any] = {}
        if task.get("image"):
            self._shared[:] = counts
        if wanted := task.get("stats"):
            answer["stats"] = statistics(counts, wanted["background"])
            if wanted.get("threshold") is not None:
                answer["stats"] |= centroid(counts, wanted["threshold"])
            if wanted.get("histogram"):
                size, low, high = wanted["histogram"]
                histogram, edges = np.histogram(counts, size, (low, max(high, low + 1e-9)))
                answer["histogram"] = [histogram.tolist(), edges[:-1].tolist()]
        if task.get("file") == "append" and self._file is not None:
            self._file.append(*self._last)
        elif task.get("file") == "keep":
            self._kept.append(self._last)
        return answer

    def open(self, task: dict[str, Any]) -> dict[str, Any]:
        """Create an HDF5 file."""
        self.close({})
        self._file = Hdf5File(Path(task["path"]), self._shape, task)  # type: ignore[arg-type]
        return {}

    def close(self, _task: dict[str, Any]) -> dict[str, Any]:
        """Close the HDF5 file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
        return {}

    def write(self, task: dict[str, Any]) -> dict[str, Any]:
        """Write a whole file: the last frame, or with ``kept`` those that were kept."""
        frames = self._kept if task.get("kept") else [self._last] if self._last else []
        file = Hdf5File(Path(task["path"]), self._shape, task)  # type: ignore[arg-type]
        for frame in frames:
            file.append(*frame)
        file.close()
        return {}

    def forget(self, _task: dict[str, Any]) -> dict[str, Any]:
        """Drop the frames that were kept."""
        self._kept.clear()
        return {}


def main() -> None:
    """Serve until stdin closes."""
    reader = Reader(json.loads(sys.stdin.readline()))

    def say(message: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()

    say({"ready": True})
    for line in sys.stdin:
        task = json.loads(line)
        began = time.monotonic()
        try:
            answer = getattr(reader, task["do"])(task)
        except (OSError, ValueError) as problem:
            answer = {"failed": str(problem)}
        say(answer | {"seconds": time.monotonic() - began})
    reader.close({})


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(0)
