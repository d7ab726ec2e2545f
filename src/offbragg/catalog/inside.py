"""Open HDF5 files in the catalog's server so that what is read from a file lies in that file.

HDF5 follows links into any file that the server may read, looks for relative names also in the
directory that it runs in, and takes the values of virtual and external datasets from there. So
every link is followed here, one by one, and what lies elsewhere is refused by name. The one
exception is what NXRefine's wrappers have: an external link downwards, to a file that has none.

Tiled opens each file several times, and reads it later than it makes its adapter. So checking the
path before is not enough, each opening is checked: `confine_hdf5` replaces how Tiled opens files.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
from h5py import h5o  # pyright: ignore[reportAttributeAccessIssue]
from tiled.adapters import hdf5 as tiled_hdf5
from tiled.utils import BrokenLink

from offbragg.catalog.readable import Readable, shown
from offbragg.errors import CatalogError
from offbragg.files.hdf5 import (
    follow_no_external_link,
    lies_elsewhere,
    link_of,
    open_linked,
    open_to_read,
)
from offbragg.files.shared_reader import ONE_HANDLE
from offbragg.private_parts import PrivatePart, examine, require

PIECE = 100_000_000  # bytes of one chunk: to read one number of it, all of it is read
_DEEPEST = 32  # links and groups on the way to one object
_MOST = 100_000  # chunks of a dataset, or variable-length texts in it
_MOST_OBJECTS = 10_000  # on all paths through a file: no other file is read during the walk
_MOST_LINKED = 200  # files that are open at the same time because one file links to them

Tree = dict[str, Any]
Libver = str | tuple[str, str]


def confine_hdf5(readable: Readable) -> None:
    """Replace how Tiled opens HDF5 files in this process.

    Raises
    ------
    CatalogError
        If this version of Tiled opens them in another way, or HDF5 still follows links: then
        nothing is served.
    """
    part = self_test()
    if not part.active:
        raise CatalogError(
            f"the catalog is not served: HDF5 files could lead out of its roots\n{part}"
        )
    follow_no_external_link()  # also if one replaces what was checked

    @contextlib.contextmanager
    def h5open(
        filename: Path | str,
        dataset: str | None = None,
        *,
        swmr: bool = tiled_hdf5.SWMR_DEFAULT,
        libver: Libver = "latest",
        locking: bool | None = None,
    ) -> Iterator[Any]:
        how = {"swmr": swmr, "libver": libver, "locking": locking}
        alone = ONE_HANDLE if dataset else contextlib.nullcontext()
        with alone, opened(readable, Path(filename), **how) as finder:
            yield finder.node(dataset or "/")

    def parse_hdf5_tree(node: object) -> Any:
        return node.tree() if isinstance(node, _FoundGroup) else tiled_hdf5.HDF5_DATASET

    tiled_hdf5.h5open = h5open  # type: ignore[assignment,misc]
    tiled_hdf5.parse_hdf5_tree = parse_hdf5_tree


def self_test() -> PrivatePart:
    """Return whether Tiled opens every HDF5 file through the functions that we replace."""
    return examine("tiled", "HDF5 files below the roots only", _read_one, guards=True)


def _read_one() -> None:
    """Read a file with Tiled's adapters, and check that each step calls our functions."""
    require(tiled_hdf5, "HDF5_DATASET", "HDF5_BROKEN_LINK")
    called: list[str] = []

    @contextlib.contextmanager
    def h5open(filename: Path | str, dataset: str | None = None, **_: object) -> Iterator[Any]:
        called.append("h5open")
        with h5py.File(filename, "r") as file:
            yield file[dataset] if dataset else file

    def parse_hdf5_tree(node: object) -> Any:
        called.append("parse_hdf5_tree")
        return {"data": tiled_hdf5.HDF5_DATASET}

    def check(step: str, *expected: str) -> None:
        if not set(expected) <= set(called):
            raise ValueError(f"it does not call {' and '.join(expected)} to {step}")
        called.clear()

    original = tiled_hdf5.h5open, tiled_hdf5.parse_hdf5_tree
    with tempfile.TemporaryDirectory(prefix="offbragg-") as folder:
        path = Path(folder) / "probe.h5"
        with h5py.File(path, "w") as file:
            file["data"] = [1, 2, 3]
        tiled_hdf5.h5open, tiled_hdf5.parse_hdf5_tree = h5open, parse_hdf5_tree  # type: ignore[assignment,misc]
        try:
            array = tiled_hdf5.HDF5ArrayAdapter.from_uris(path.as_uri(), dataset="data")
            check("describe an array", "h5open")
            if list(array.read()) != [1, 2, 3]:
                raise ValueError("an array is read with other values")
            check("read an array", "h5open")
            group: Any = tiled_hdf5.HDF5Adapter.from_uris(path.as_uri())
            check("list a group", "h5open", "parse_hdf5_tree")
            group["data"].read()
            check("read an array of a group", "h5open")
        finally:
            tiled_hdf5.h5open, tiled_hdf5.parse_hdf5_tree = original  # type: ignore[assignment,misc]


@contextlib.contextmanager
def opened(
    readable: Readable,
    path: Path,
    *,
    swmr: bool,
    locking: bool | None,
    libver: Libver = "latest",
) -> Iterator[Finder]:
    """Open a file to find and read what is in it, within a ``with``.

    Parameters
    ----------
    readable
        Where it must lie.
    path
        The file.
    swmr, locking, libver
        How to open it: HDF5 opens a file that this process has open only in the same way.

    Raises
    ------
    CatalogError
        If it must not be read, or cannot be.
    BrokenLink
        If it is missing.
    """
    how = {"swmr": swmr, "locking": locking, "libver": libver}
    with contextlib.ExitStack() as stack:
        yield Finder(readable, stack, path, open_readable(readable, path, stack, **how), how)


def open_readable(
    readable: Readable, path: Path, stack: contextlib.ExitStack, **how: Any
) -> h5py.File:
    """Open a file until a stack is closed, as `opened` does."""
    try:
        descriptor = readable.open(path)
    except FileNotFoundError as error:
        raise BrokenLink(f"{shown(path.name)} is missing") from error
    try:
        return stack.enter_context(open_to_read(path, descriptor=descriptor, **how))
    except (OSError, RuntimeError) as error:
        what = str(error).replace(f"/proc/self/fd/{descriptor}", path.name)
        raise CatalogError(f"{shown(path)} is not read: {shown(what)}") from error
    finally:
        os.close(descriptor)


class _FoundGroup(h5py.Group):
    """A group, with the finder that found it."""

    def __init__(self, group: h5py.Group, finder: Finder, file: _File) -> None:
        super().__init__(group.id)
        self._finder = finder
        self._file = file

    def tree(self) -> Tree:
        """Return what is in it, in the form that Tiled's adapter needs."""
        return self._finder.tree(self, self._file)


class _File:
    """An open file."""

    def __init__(self, file: h5py.File, path: Path, *, linked: bool) -> None:
        self.root: Any = file["/"]
        self.path = path
        self.linked = linked
        """Whether another file links to it: then it must have no external links itself."""


_Place = tuple[Path, int]


def _place(group: h5py.Group, file: _File) -> _Place:
    """Return where a group is, whatever its name: the file, and the address in it."""
    return file.path, h5o.get_info(group.id).addr


class Finder:
    """Finds objects in a file, and refuses what does not lie in it.

    Parameters
    ----------
    readable
        Where files must lie.
    stack
        Closes the files.
    path, file
        The file.
    how
        Options of `open_to_read`.
    """

    def __init__(
        self,
        readable: Readable,
        stack: contextlib.ExitStack,
        path: Path,
        file: h5py.File,
        how: dict[str, Any],
    ) -> None:
        self._readable = readable
        self._stack = stack
        self._how = how
        self._first = _File(file, readable.real(path), linked=False)
        self._linked: dict[Path, _File] = {}
        self._objects = 0

    def node(self, name: str) -> Any:
        """Return a dataset, or a group.

        Raises
        ------
        CatalogError
            If it lies elsewhere.
        BrokenLink
            If a link leads to nothing.
        KeyError
            If it is missing.
        """
        found, file = self._find(self._first, self._first.root, name, 0)
        if isinstance(found, h5py.Group):
            return _FoundGroup(found, self, file)
        self._check(found, file)
        return found

    def tree(self, group: h5py.Group, file: _File, above: tuple[_Place, ...] = ()) -> Tree:
        """Return everything that is in a group, and refuse what lies elsewhere.

        Parameters
        ----------
        group
            A group of a file.
        file
            That file.
        above
            The groups on the path to it.

        Raises
        ------
        CatalogError
            Naming the object; also if the groups are nested too deeply, or in circles.
        """
        where = f"{shown(file.path)}: {shown(group.name)}"
        if len(above) > _DEEPEST:
            raise CatalogError(f"{where} is not read: groups are nested more than {_DEEPEST} deep")
        above = (*above, _place(group, file))
        tree: Tree = {}
        for part in map(str, group):
            self._objects += 1  # per path: a few groups with many names each have endless paths
            if self._objects > _MOST_OBJECTS:
                raise CatalogError(
                    f"{where} is not read: there are more than {_MOST_OBJECTS:,} objects in this "
                    f"file, each counted once for every path that leads to it"
                )
            try:
                found, its = self._find(file, group, part, 0)
            except (BrokenLink, KeyError):
                tree[part] = tiled_hdf5.HDF5_BROKEN_LINK
                continue
            if isinstance(found, h5py.Group):
                if _place(found, its) in above:
                    raise CatalogError(f"{where} is not read: {shown(part)} leads in circles")
                tree[part] = self.tree(found, its, above)
            else:
                self._check(found, its)
                tree[part] = tiled_hdf5.HDF5_DATASET
        return tree

    def _find(self, file: _File, group: h5py.Group, name: str, depth: int) -> tuple[Any, _File]:
        """Follow a path to an object, link by link."""
        here: Any = file.root if name.startswith("/") else group
        for part in (part for part in name.split("/") if part not in ("", ".")):
            where = f"{shown(file.path)}: {shown(str(here.name).rstrip('/'))}/{shown(part)}"
            link = link_of(here, part) if isinstance(here, h5py.Group) else None
            if link is None:
                if depth:
                    raise BrokenLink(f"{where} is missing")
                raise KeyError(f"{where} is missing")
            if not isinstance(link, h5py.HardLink) and depth >= _DEEPEST:
                raise CatalogError(f"{where} is not read: it leads in circles")
            if isinstance(link, h5py.HardLink):
                here = open_linked(here, part, where)
            elif isinstance(link, h5py.SoftLink):
                here, file = self._find(file, here, link.path, depth + 1)
            elif isinstance(link, h5py.ExternalLink) and not file.linked:
                file = self._open_linked(file, link, where)
                here, file = self._find(file, file.root, f"/{link.path}", depth + 1)
            else:
                raise CatalogError(f"{where} is not read: it is a link to another file")
        if isinstance(here, h5py.Dataset) and (elsewhere := lies_elsewhere(here)):
            raise CatalogError(f"{shown(file.path)}: {shown(here.name)} is not read: {elsewhere}")
        return here, file

    def _open_linked(self, file: _File, link: h5py.ExternalLink, where: str) -> _File:
        """Open the file of an external link: only downwards, without the search paths of HDF5."""
        name = PurePosixPath(link.filename)
        if name.is_absolute() or ".." in name.parts or not name.parts:
            raise CatalogError(
                f"{where} is not read: it leads out of what may be served; links are only "
                f"followed downwards"
            )
        path = self._readable.real(file.path.parent / name)
        if path not in self._linked:
            if len(self._linked) >= _MOST_LINKED:
                raise CatalogError(
                    f"{where} is not read: this file links to more than {_MOST_LINKED} files"
                )
            opened = open_readable(self._readable, path, self._stack, **self._how)
            self._linked[path] = _File(opened, path, linked=True)
        return self._linked[path]

    def _check(self, found: h5py.Dataset, file: _File) -> None:
        check_pieces(found, f"{shown(file.path)}: {shown(found.name)}")


def check_hdf5(
    path: Path,
    roots: Sequence[Path],
    *,
    names: Sequence[str] = ("/",),
    swmr: bool = True,
    locking: bool | None = False,
) -> None:
    """Refuse an HDF5 file if one of the named objects lies, or leads, elsewhere.

    Parameters
    ----------
    path
        The file.
    roots
        Directories below which files may be read.
    names
        Datasets, or groups with all that is in them.
    swmr, locking
        How the next reader in this process opens the file.

    Raises
    ------
    CatalogError
        Naming the file, the object and the reason.
    """
    check_readable(Readable(roots), path, names=names, swmr=swmr, locking=locking)


def check_readable(
    readable: Readable,
    path: Path,
    *,
    names: Sequence[str],
    swmr: bool,
    locking: bool | None,
) -> None:
    """Refuse an HDF5 file as `check_hdf5` does."""
    try:
        with ONE_HANDLE, opened(readable, path, swmr=swmr, locking=locking) as finder:
            for name in names:
                node = finder.node(name)
                if isinstance(node, _FoundGroup):
                    node.tree()
    except (BrokenLink, KeyError):
        return  # there is nothing to read
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise CatalogError(f"{shown(path)} is not read: {shown(error)}") from error


def check_pieces(array: Any, where: str) -> None:
    """Refuse an array of HDF5 or Zarr that cannot be read in parts.

    Raises
    ------
    CatalogError
        With the size, or the number, of its chunks.
    """
    shape = getattr(array, "shape", None)
    if not shape:
        return  # a scalar, or empty
    if array.dtype.kind == "O" and math.prod(shape) > _MOST:
        raise CatalogError(
            f"{where} is not read: it has {math.prod(shape):,} variable-length texts, and "
            f"the most are {_MOST:,}"
        )
    piece = getattr(array, "chunksize", None) or getattr(array, "chunks", None) or shape
    size = math.prod(piece) * array.dtype.itemsize
    if size > PIECE:
        raise CatalogError(
            f"{where} is not read: it lies in chunks of {size:,} bytes, and each must be read as "
            f"a whole; the most are {PIECE:,} bytes. Store it in smaller chunks"
        )
    count = math.prod(math.ceil(n / m) for n, m in zip(shape, piece, strict=True) if m)
    if count > _MOST:
        raise CatalogError(
            f"{where} is not read: it lies in {count:,} chunks, and the most are {_MOST:,}. "
            f"Store it in larger chunks"
        )
