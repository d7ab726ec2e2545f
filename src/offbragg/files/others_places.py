"""Where the frames of a dataset lie: external links and virtual datasets, followed by us.

HDF5 follows them into any file, and reads what is not there as zeros. Here each becomes the name of
a file and a dataset, and every file is proven to stay in the adopted folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py  # pyright: ignore[reportMissingTypeStubs]
from h5py import h5d, h5s  # pyright: ignore[reportAttributeAccessIssue]

from offbragg.errors import ConfigError, ScanFileError
from offbragg.files.adopted import path_in
from offbragg.files.hdf5 import find_inside, link_of, open_linked, open_to_read

_DEEPEST = 8  # links and virtual datasets on the way to one frame
_MOST = 100_000  # parts of a virtual dataset
_MOST_FRAMES = 1_000_000  # of a virtual dataset: the number that a file claims costs it nothing


@dataclass(frozen=True, slots=True)
class Place:
    """A dataset, and which frames of it belong where."""

    file: str
    """Its path from the adopted folder."""
    dataset: str
    first: int = 0
    """Number of its first frame in the dataset that was named."""
    offset: int = 0
    """Where that frame is in the dataset."""
    n: int | None = None
    """How many; None: all that it has."""


Found = tuple[list[Place], tuple[int, ...] | None]


def find_places(folder: Path, name: str, dataset: str) -> Found:
    """Return where the frames of a dataset lie, and its shape if it is a virtual one.

    Parameters
    ----------
    folder
        That no file leaves.
    name
        Of the file, from the folder.
    dataset
        Or a link to it.

    Raises
    ------
    ConfigError
        If the file has no such dataset.
    ScanFileError
        If something leads out of the folder, in circles, or is arranged in another way than frame
        by frame.
    """
    return _follow(folder, name, dataset, 0)


def _follow(folder: Path, name: str, dataset: str, depth: int) -> Found:
    path = path_in(folder, name)
    if depth > _DEEPEST:
        raise ScanFileError(f"{path}: {dataset} leads in circles")
    if not path.is_file():
        return [Place(name, dataset)], None
    try:
        file = open_to_read(path, swmr=False)
    except (OSError, RuntimeError) as error:
        raise ScanFileError(f"{path} cannot be opened: {error}") from error
    with file:
        parent, _, last = dataset.rpartition("/")
        if last in ("", "."):
            raise ConfigError(f"{path}: {dataset} names no dataset: name one, as --dataset /a/b")
        missing = ConfigError(f"{path} has no {dataset}: name another --dataset")
        try:
            group = find_inside(file, parent or "/", path)
        except KeyError as error:
            raise missing from error
        link = link_of(group, last) if isinstance(group, h5py.Group) else None
        if link is None:
            raise missing
        if isinstance(link, h5py.ExternalLink):
            beside = str(Path(name).parent / str(link.filename))
            return _follow(folder, beside, str(link.path), depth + 1)
        if isinstance(link, h5py.SoftLink):
            there = str(link.path)
            if not there.startswith("/"):
                there = f"{parent}/{there}"
            return _follow(folder, name, there, depth + 1)
        found = open_linked(group, last, f"{path}: {dataset}")
        if not isinstance(found, h5py.Dataset) or not _is_virtual(found):
            return [Place(name, dataset)], None
        shape = tuple(int(n) for n in _extent(found))
        parts = list(_parts(found, shape, path))
    places: list[Place] = []
    for source, inner, first, offset, n in parts:
        beside = name if source == "." else str(Path(name).parent / source)
        for one in _follow(folder, beside, inner, depth + 1)[0]:
            places += _within(one, first, offset, n)
    return places, shape


def _is_virtual(dataset: h5py.Dataset) -> bool:
    return dataset.id.get_create_plist().get_layout() == h5d.VIRTUAL


def _extent(dataset: h5py.Dataset) -> tuple[int, ...]:
    """Return the shape of a virtual dataset by what it says of its parts: no file is opened."""
    plist: Any = dataset.id.get_create_plist()
    return plist.get_virtual_vspace(0).get_simple_extent_dims()


def _parts(
    dataset: h5py.Dataset, shape: tuple[int, ...], path: Path
) -> Iterator[tuple[str, str, int, int, int]]:
    """Yield file, dataset, first frame here, first frame there and how many, of each part."""
    plist: Any = dataset.id.get_create_plist()
    n = plist.get_virtual_count()
    where = f"{path}: {dataset.name}"
    if len(shape) != 3 or n > _MOST:
        raise ScanFileError(
            f"{where} is a virtual dataset of shape {shape} in {n} parts: frames have the shape "
            f"(frame, slow, fast), and at most {_MOST} parts are read"
        )
    total = 0
    for i in range(n):
        here = _frames(plist.get_virtual_vspace(i), shape[1:], where)
        there = _frames(plist.get_virtual_srcspace(i), shape[1:], where)
        file, name = plist.get_virtual_filename(i), plist.get_virtual_dsetname(i)
        if there is None:
            there = [(0, sum(count for _, count in here or [(0, shape[0])]))]
        here = here or [(0, shape[0])]
        total += max(sum(count for _, count in one) for one in (here, there))
        if total > _MOST_FRAMES:
            raise ScanFileError(
                f"{where} is a virtual dataset of {total:,} frames or more: at most "
                f"{_MOST_FRAMES:,} are read. Name the datasets behind it, --dataset /a/b"
            )
        # both list the same frames in their order, perhaps in other pieces
        left, right = _each(here), _each(there)
        runs: list[list[int]] = []
        for first, offset in zip(left, right, strict=True):
            if runs and first == runs[-1][0] + runs[-1][2] and offset == runs[-1][1] + runs[-1][2]:
                runs[-1][2] += 1
            else:
                runs.append([first, offset, 1])
        yield from ((file, name, first, offset, count) for first, offset, count in runs)


def _frames(space: Any, frame: tuple[int, ...], where: str) -> list[tuple[int, int]] | None:
    """Return which whole frames a part selects, first and how many; None for all there are."""
    if space.get_select_type() == h5s.SEL_ALL:
        return None
    odd = ScanFileError(
        f"{where} is a virtual dataset that is not made of whole frames: name the datasets behind "
        "it, --dataset /a/b"
    )
    if space.get_select_type() != h5s.SEL_HYPERSLABS or not space.is_regular_hyperslab():
        raise odd
    start, stride, count, block = space.get_regular_hyperslab()
    if len(start) != 3 or max(count) > _MOST or max(block) > 1 << 31:  # unlimited ones
        raise odd
    for axis, n in enumerate(frame, 1):
        if start[axis] != 0 or count[axis] * block[axis] != n:
            raise odd
    return [(int(start[0] + k * stride[0]), int(block[0])) for k in range(count[0])]


def _each(pieces: list[tuple[int, int]]) -> list[int]:
    return [number for first, count in pieces for number in range(first, first + count)]


def _within(place: Place, first: int, offset: int, n: int) -> list[Place]:
    """Return that part of a place which is frames ``offset`` to ``offset + n`` of it."""
    start, stop = offset - place.first, offset - place.first + n
    start = max(start, 0)
    stop = stop if place.n is None else min(stop, place.n)
    if start >= stop:
        return []
    moved = first + (place.first + start - offset)
    return [Place(place.file, place.dataset, moved, place.offset + start, stop - start)]
