"""Answers about the frames of a run, made of its scan file."""

from __future__ import annotations

import io
import json
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.catalog.frame_pictures import draw_frame
from offbragg.catalog.frame_questions import ManyFrames, OneFrame
from offbragg.catalog.read_limits import about_to_read
from offbragg.catalog.run_files import RunFile
from offbragg.catalog.run_ledger import ledger_json, planned_ledger_json
from offbragg.catalog.sent import Refusal
from offbragg.errors import OffbraggError
from offbragg.files.scan_file import ScanFile

MOST_JSON = 100_000  # numbers
MOST_DECODED = 10_000_000_000  # pixels of the rows that one request decodes
_MOST_LISTED = 300  # frames in a header
_SOON = {"retry-after": "1"}  # it may come

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Found:
    """A part of a scan file that is asked for."""

    version: tuple[Any, ...]
    """Equal as long as the answer is."""
    described: dict[str, Any]
    make: Callable[[], tuple[bytes, dict[str, Any]]] = field(compare=False)
    """Makes the answer, and what is known of it only then."""


def find_frame(scan: ScanFile, asked: OneFrame, identity: tuple[int, ...]) -> Found:
    """Find a frame.

    Parameters
    ----------
    scan, asked
        Of which run, and which frame.
    identity
        Changes whenever the file does.

    Raises
    ------
    Refusal
        404 if it is not stored, and why.
    """
    index = _index(scan, asked.index)
    row = scan.frame_row(index)
    if row["status"] != "stored":
        reason = f": {row['reason']}" if row["reason"] else ""
        raise Refusal(
            404, f"Frame {index} is {row['status']}{reason}.",
            **(_SOON if row["status"] == "pending" else {}),
        )  # fmt: skip
    described = {
        "index": index, "n": scan.n_frames, "shape": list(scan.shape),
        "angle": _finite(row["angle"]), "time": _finite(row["time"]), "status": row["status"],
        "file": row["source"], "beam_centre": _beam_centre(scan),
    }  # fmt: skip

    def make() -> tuple[bytes, dict[str, Any]]:
        about_to_read(4 * math.prod(scan.shape))
        counts = scan.stack.counts[index]
        if asked.picture is None:
            return _as_bytes(counts, asked.format)
        drawn = draw_frame(counts, asked.picture)
        scale = {"low": drawn.low, "high": drawn.high, "bin": drawn.bin, "picture": drawn.shape}
        return drawn.png, scale

    # of a file that grows, what was made of a frame stays right
    stays = row.get("crc64") or identity
    return Found((scan.run, stays, json.dumps(described)), described, make)


def find_ledger(scan: ScanFile, identity: tuple[int, ...]) -> Found:
    """Find what became of all frames."""
    return Found((scan.run, *identity), {}, lambda: (ledger_json(scan), {}))


def find_planned(run: RunFile, asked: OneFrame | ManyFrames | None) -> Found:
    """Find the ledger of a run that has no scan file yet, where every frame is pending.

    Raises
    ------
    Refusal
        404 if something else is asked for, or the run measures no sweep.
    """
    if asked is not None:
        raise Refusal(404, f"Run {run.uid} has no frame yet. Ask again.", **_SOON)
    try:
        ledger = planned_ledger_json(run.start)
    except (OffbraggError, KeyError, TypeError):
        raise Refusal(404, f"Run {run.uid} has no sweep, and so no frames.") from None
    return Found((run.uid, "planned"), {}, lambda: (ledger, {}))


def find_frames(scan: ScanFile, asked: ManyFrames, identity: tuple[int, ...]) -> Found:
    """Find a part of several frames.

    Parameters
    ----------
    scan, asked
        Of which run, and which part.
    identity
        Changes whenever the file does.

    Raises
    ------
    Refusal
        If it has no pixels, or too many.
    """
    numbers = asked.index.within(scan.n_frames, "index", "frames")
    rows = asked.rows.within(scan.shape[0], "roi", "rows")
    columns = asked.columns.within(scan.shape[1], "roi", "columns")
    decoded = len(numbers) * (rows.stop - rows.start) * scan.shape[1]
    if decoded > MOST_DECODED:
        raise Refusal(
            400,
            f"These rows of {len(numbers)} frames have {decoded:,} pixels; one request decodes "
            f"{MOST_DECODED:,}. Ask for fewer frames at a time.",
        )
    status = scan.column("status")
    there = (status == b"stored")[_slice(numbers)]
    missing = [number for number, stored in zip(numbers, there, strict=True) if not stored]
    decided = np.flatnonzero(status == b"pending")
    shape = [len(numbers), len(rows), len(columns)]
    described = {
        "n": int(decided[0]) if decided.size else scan.n_frames, "shape": shape,
        "panel": list(scan.shape), "not_stored": len(missing),
        "not_stored_index": missing[:_MOST_LISTED],
    }  # fmt: skip
    part = _slice(rows), _slice(columns)

    def make() -> tuple[bytes, dict[str, Any]]:
        stack = scan.stack.counts
        if asked.format == "sum":
            return _summed(scan, stack, numbers, there, part), {}
        about_to_read(4 * math.prod(shape))
        if asked.format == "json" and math.prod(shape) > MOST_JSON:
            raise Refusal(
                400,
                f"This would be {math.prod(shape):,} numbers as JSON; at most {MOST_JSON:,} are "
                "written out. Ask for npy, int32 or sum.",
            )
        counts = np.full(shape, -1, np.int32)
        for at, number in enumerate(numbers):
            if there[at]:
                counts[at] = stack[(number, *part)]
        if asked.format == "json":
            return json.dumps({**described, "counts": counts.tolist()}).encode(), {}
        return _as_bytes(counts, asked.format)

    return Found((scan.run, *identity), described, make)


def _summed(
    scan: ScanFile, stack: Any, numbers: range, there: Array, part: tuple[slice, slice]
) -> bytes:
    """Return the counts of a part of each frame, pixels below 0 left out, as JSON."""
    counts: list[int | None] = []
    pixels = 0
    for at, number in enumerate(numbers):
        if not there[at]:
            counts.append(None)
            continue
        read = stack[(number, *part)]
        valid = read >= 0
        pixels = max(pixels, int(np.count_nonzero(valid)))
        counts.append(int(read.sum(dtype=np.int64, where=valid)))
    angles = scan.column("angle")[_slice(numbers)]
    answer = {
        "index": list(numbers), "counts": counts, "angle": [_finite(a) for a in angles],
        "pixels": pixels,
    }  # fmt: skip
    return json.dumps(answer).encode()


def _index(scan: ScanFile, asked: int | None) -> int:
    n = scan.n_frames
    if asked is None:
        stored = np.flatnonzero(scan.column("status") == b"stored")
        if not stored.size:
            raise Refusal(404, f"No frame is stored yet: 0 of {n}. Ask again.", **_SOON)
        return int(stored[-1])
    if not -n <= asked < n:
        raise Refusal(404, f"Frame {asked} does not exist: there are {n}, 0 to {n - 1}.")
    return asked % n


def _as_bytes(counts: NDArray[np.int32], form: str) -> tuple[bytes, dict[str, Any]]:
    if form == "int32":
        return counts.astype("<i4", copy=False).tobytes(), {}
    if form == "bytes":
        return _as_planes(counts)
    raw = io.BytesIO()
    np.save(raw, counts.astype(_narrowest(counts), order="C", copy=False), allow_pickle=False)
    return raw.getvalue(), {}


def _as_planes(counts: NDArray[np.int32]) -> tuple[bytes, dict[str, Any]]:
    """Return the lowest bytes of all counts, then the next ones; as many as they need."""
    width = _narrowest(counts).itemsize
    octets = counts.astype(f"<i{width}", copy=False).reshape(-1, 1).view(np.uint8)
    return octets.T.tobytes(), {"width": width}


def _narrowest(counts: NDArray[np.int32]) -> np.dtype[Any]:
    low, high = (int(counts.min()), int(counts.max())) if counts.size else (0, 0)
    for dtype in ("<i1", "<i2"):
        limits = np.iinfo(dtype)
        if limits.min <= low and high <= limits.max:
            return np.dtype(dtype)
    return np.dtype("<i4")


def squeezed(body: bytes) -> bytes:
    """Compress an answer with gzip: as small as its entropy, as noise has no repetitions."""
    coder = zlib.compressobj(1, zlib.DEFLATED, 31, 9, zlib.Z_RLE)
    return coder.compress(body) + coder.flush()


def _slice(numbers: range) -> slice:
    return slice(numbers.start, numbers.stop, numbers.step)


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _beam_centre(scan: ScanFile) -> list[float | None] | None:
    """Return where the beam meets the panel, slow and fast, pixel; None if that is not known."""
    try:
        met = scan.geometry.direct_beam()
    except OffbraggError:
        return None
    return None if met is None else [_finite(met[1]), _finite(met[0])]
