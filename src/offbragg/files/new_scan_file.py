"""A new scan file in its directory: complete from the first moment, under the next free name."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py  # pyright: ignore[reportMissingTypeStubs]

from offbragg.errors import ScanFileError
from offbragg.files import scan_layout
from offbragg.files.draft import Draft, draft
from offbragg.files.durable import make_directory
from offbragg.files.hdf5 import LIBVER


def make_scan_file(
    directory: Path,
    *,
    start: Mapping[str, Any],
    data_shape: tuple[int, int] | None = None,
    name: str | None = None,
) -> Path:
    """Make the scan file of a run, without frames, and return its path.

    It is written without a name; the next free ``fN.h5`` then appears at once, complete, and never
    in place of another.

    Parameters
    ----------
    directory, start, data_shape, name
        As for `offbragg.files.scan_writer.ScanWriter.create`.

    Raises
    ------
    ScanFileError
        If there is a file of this name, ``start`` lacks something, or the directory cannot be
        written.
    """
    shape = _frame_shape(start, data_shape)
    # in memory: HDF5 does not survive a disk that is full before its file has a beginning
    skeleton = io.BytesIO()
    with h5py.File(
        skeleton,
        "w",
        libver=LIBVER,
        # a kill may tear a write at the border of two pages: what is written again is in one
        alignment_threshold=8,
        alignment_interval=512,
    ) as file:
        scan_layout.write_skeleton(file, start, shape)
    try:
        make_directory(directory)
    except OSError as error:
        raise ScanFileError(
            f"no scan file can be made in {directory}: {error.strerror}\nGive another directory."
        ) from error
    try:
        with draft(directory / (name or "f1.h5")) as made:
            made.write(skeleton.getbuffer())
            if name is None:
                place_next(made, directory)
            else:
                made.place()
            return made.target
    except FileExistsError as error:
        raise ScanFileError(f"{directory / str(name)} is there already") from error
    except OSError as error:
        raise ScanFileError(
            f"no scan file can be made in {directory}: {error}\n"
            "Look at the disk's space and the directory's permissions."
        ) from error


def _frame_shape(start: Mapping[str, Any], data_shape: tuple[int, int] | None) -> tuple[int, int]:
    for key in ("uid", "time", "sample", "sweep", "geometry"):
        if key not in start:
            raise ScanFileError(f"a scan file needs {key!r} in the start document")
    if data_shape is None:
        detector: Mapping[str, Any] = start.get("detector") or {}
        geometry: Mapping[str, Any] = start["geometry"] or {}
        data_shape = detector.get("shape") or geometry.get("panel", {}).get("shape")
    shape = tuple(int(n) for n in data_shape or ())
    if len(shape) != 2:
        raise ScanFileError("a scan file needs the shape of its frames")
    return shape[0], shape[1]


def place_next(made: Draft, directory: Path) -> None:
    """Place a draft as the next free ``fN.h5`` of a directory.

    Raises
    ------
    OSError
        If it cannot be placed.
    """
    number = 1
    while True:
        made.target = directory / f"f{number}.h5"
        try:
            made.place()
        except FileExistsError:
            number += 1
            continue
        return
