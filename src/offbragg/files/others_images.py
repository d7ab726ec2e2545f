"""Find the frames in image files of others: one CBF or TIFF each, or the pages of a TIFF."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from offbragg.errors import ConfigError, FrameError, ScanFileError
from offbragg.files import read_head
from offbragg.files.adopted import Piece
from offbragg.files.adopted_images import PagesOfTiff, name_of
from offbragg.files.compressed import frame_kind, is_packed
from offbragg.files.headers import agree, axis_name
from offbragg.files.others import OthersFrames
from offbragg.files.series import find_series

_LISTED = 3


def are_images(path: Path) -> bool:
    """Return whether a path is a folder, a pattern or a file of images, and not an HDF5 file."""
    return path.is_dir() or any(sign in path.name for sign in "*?[") or frame_kind(path) is not None


def find_images(path: Path, n_frames: int | None = None) -> OthersFrames:
    """Find frames in image files, and what their headers say.

    Parameters
    ----------
    path
        A folder of frame files, a pattern as in a shell, or one TIFF file of several images.
    n_frames
        How many there should be, from the lowest number on.

    Raises
    ------
    ConfigError
        If the files are not of one series, have several shapes, or their headers contradict each
        other.
    ScanFileError
        If none can be read.
    """
    if path.is_file() and frame_kind(path) == ".tif" and not is_packed(path):
        return _pages(path, n_frames)
    series = find_series(str(path))
    n = series.n_frames if n_frames is None else n_frames
    heads: dict[int, Any] = {}
    why = ""
    for number in range(n):
        try:
            heads[number] = read_head(series.path(number))
        except FileNotFoundError:
            continue
        except (FrameError, OSError) as error:
            why = why or str(error)
    if not heads:
        raise ScanFileError(f"none of the files of {path} is a frame: {why}")
    shapes = Counter(head.shape for head in heads.values())
    if len(shapes) > 1:
        some = ", ".join(f"{rows} × {columns} in {k}" for (rows, columns), k in shapes.items())
        raise ConfigError(
            f"the frames of {path} have different shapes: {some} of {len(heads)} files\n"
            "Give a pattern that matches the frames of one detector."
        )
    agreement = agree(
        {number: head.header for number, head in heads.items()},
        lambda number: series.path(number).name,
    )
    if agreement.refused:
        lines = [f"frame {k}: {text}" for k, text in list(agreement.refused.items())[:_LISTED]]
        raise ConfigError(
            f"{len(agreement.refused)} of {len(heads)} files of {path} are of another sweep by "
            f"their headers: {'; '.join(lines)}\nGive a pattern that matches one sweep, or stack "
            "them with offbragg stack-files, which leaves them out."
        )
    name_of(series.template, series.first)  # refuses what cannot be written down
    header = dict(agreement.header)
    axis = axis_name(header)
    header.pop("oscillation_axis", None)
    if axis is not None:
        header["oscillation_axis"] = axis
    limits = [head.most_counts for head in heads.values() if head.most_counts is not None]
    limits += [cutoff] if (cutoff := header.get("count_cutoff", 0.0)) > 0 else []
    piece = Piece(series.template, "", 0, n, series.first, "files")
    detector = {"saturation": min(limits)} if limits else {}
    (shape,) = shapes
    return OthersFrames(series.directory, (piece,), shape, header, frozenset(), detector)


def _pages(path: Path, n_frames: int | None) -> OthersFrames:
    try:
        pages = PagesOfTiff(path)
    except FrameError as error:
        raise ScanFileError(f"{path} cannot be read: {error}") from error
    n = pages.length if n_frames is None else n_frames
    most = pages.most_counts
    pages.close()
    piece = Piece(path.name, "", 0, n, 0, "pages")
    detector = {"saturation": most} if most < 1 << 16 else {}
    return OthersFrames(path.parent, (piece,), pages.shape, detector=detector)
