"""A thin scan file: rows, geometry and checksums of frames that stay where they are."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ScanFileError
from offbragg.files import scan_layout
from offbragg.files.adopted import NOWHERE, Piece, Pieces
from offbragg.files.digest import CLOSED, make_digest, write_digest
from offbragg.files.draft import draft
from offbragg.files.durable import make_directory
from offbragg.files.frame_rows import put_known, put_stored
from offbragg.files.hdf5 import LIBVER
from offbragg.files.new_scan_file import place_next
from offbragg.files.nexus import fit, iso
from offbragg.sweep import Sweep


def write_thin_scan_file(
    out: Path,
    start: Mapping[str, Any],
    folder: Path,
    pieces: Sequence[Piece],
    *,
    values: Mapping[str, NDArray[np.float64]] | None = None,
    mask: NDArray[np.uint32] | None = None,
    next_free: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write the scan file of frames that lie in the files of others; each is read once.

    Parameters
    ----------
    out
        The scan file, which must not be there, or its folder.
    start
        The start document, with the frames' shape.
    folder
        That holds the files of all pieces.
    pieces
        Where the frames are. A file that is not there makes its frames missing, one that cannot
        be read makes them rejected.
    values
        Per-frame columns of the start document, each of shape (frame,).
    mask
        Pixel mask, bit 0: gap, bit 1: dead, shape (slow, fast); from the first frame if None.
    next_free
        ``out`` is a folder: the scan file is the next ``fN.h5`` of it.
    progress
        Called with (frames read, frames in all).

    Returns
    -------
    path
        The scan file.

    Raises
    ------
    ScanFileError
        If ``out`` is there or cannot be written, or a piece leads out of the folder.
    """
    if out.exists() and not next_free:
        raise ScanFileError(f"{out} is there already: give another --out")
    sweep = Sweep.from_dict(start["sweep"])
    rows, columns = (int(n) for n in start["detector"]["shape"])
    adopted = {"folder": str(folder.resolve()), "pieces": [one.to_dict() for one in pieces]}
    frames = Pieces(folder, pieces, (rows, columns))
    made = io.BytesIO()
    with h5py.File(made, "w", libver=LIBVER) as file:
        scan_layout.write_skeleton(file, {**start, scan_layout.ADOPTED: adopted}, (rows, columns))

        def column(name: str) -> Any:
            return file[f"{scan_layout.FRAMES}/{name}"]

        first = _write_rows(column, frames, pieces, sweep, (rows, columns), progress)
        for name, numbers in (values or {}).items():
            column(name)[...] = numbers
        data: Any = file[scan_layout.DATA]
        data.resize(sweep.n_frames, axis=0)
        run: Any = file[scan_layout.RUN]
        field: Any = file[scan_layout.MASK]
        if first is not None:
            number, counts = first
            scan_layout.write_first_frame(field, run["first_header"], number, counts, {})
        if mask is not None:
            field[...] = mask
        run["exit_status"][()] = fit("success", 16)
        run["summary"][()] = b"{}"
        end: Any = file["/entry/end_time"]
        end[()] = iso(float(start["time"]) + sweep.duration).encode()
    try:
        directory = out if next_free else out.parent
        make_directory(directory)
        with draft(directory / "f1.h5" if next_free else out) as placed:
            placed.write(made.getbuffer())
            if next_free:
                place_next(placed, directory)
            else:
                placed.place()
            out = placed.target
    except OSError as error:
        raise ScanFileError(f"{out} cannot be written: {error}") from error
    write_digest(out, make_digest(out, str(start["uid"]), [], made=CLOSED))
    return out


def _write_rows(
    column: Callable[[str], Any],
    frames: Pieces,
    pieces: Sequence[Piece],
    sweep: Sweep,
    shape: tuple[int, int],
    progress: Callable[[int, int], None],
) -> tuple[int, NDArray[np.int32]] | None:
    """Write what became of each frame; return the first stored one and its number."""
    first: tuple[int, NDArray[np.int32]] | None = None
    stored: list[int] = []
    crcs: list[int] = []
    sources: list[str] = []
    room = np.empty(shape, np.int32)
    for piece in pieces:
        for number in range(piece.first, piece.stop):
            status, reason = "missing", ""
            source = piece.source(number)
            try:
                crc = frames.read(number, room)
            except FileNotFoundError:
                reason = f"{source} was not there when it was adopted"
                if source == NOWHERE:
                    reason = "no file holds it"
            except ScanFileError as error:
                status, reason = "rejected", str(error).partition("\n")[0]
            else:
                first = first or (number, room.copy())
                stored.append(number)
                crcs.append(crc)
                sources.append(source)
                status = ""
            if status:
                column("reason")[number] = fit(reason, scan_layout.REASON_LENGTH)
                column("status")[number] = status.encode()
            progress(number + 1, sweep.n_frames)
    held = {number for piece in pieces for number in range(piece.first, piece.stop)}
    for number in sorted(set(range(sweep.n_frames)) - held):
        column("reason")[number] = fit("no adopted file holds it", scan_layout.REASON_LENGTH)
        column("status")[number] = b"missing"
    if stored:
        numbers, unknown = np.array(stored), np.full(len(stored), np.nan)
        put_known(
            column, numbers, sources=sources, md5s=[None] * len(stored), crcs=crcs, times=unknown
        )
        put_stored(column, numbers)
    return first
