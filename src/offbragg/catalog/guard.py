"""What the catalog's server may read: files below its roots, whatever they or their links say.

Tiled compares an asset's path with the roots as text: it does not see a symbolic link, nor what an
HDF5 file refers to. So each asset is looked at here before its adapter is: its real path, and for
HDF5 every link, virtual source and external storage on the way to what is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
from h5py import h5o  # pyright: ignore[reportAttributeAccessIssue]
from tiled.adapters.hdf5 import SWMR_DEFAULT
from tiled.utils import path_from_uri

from offbragg.catalog.answers import ANSWER, CountedAdapter
from offbragg.errors import CatalogError
from offbragg.files.hdf5 import open_to_read
from offbragg.terminal import printable

HDF5 = frozenset({"application/x-hdf5", "application/x-offbragg-frames"})
SERVED = HDF5 | {
    "multipart/related;type=image/x-cbf",
    "multipart/related;type=image/tiff",
    "multipart/related;type=image/jpeg",
    "image/tiff",
    "image/jpeg",
    "application/x-zarr",
    "application/x-parquet",
    "application/x-tiled-sql-table",
}
PIECE = 100_000_000  # bytes of one chunk: whoever wants one number of it reads all of it
_DEEPEST = 32  # links and groups on the way to one thing
_MOST = 100_000  # things in one file, or chunks of a dataset


class GuardedAdapter:
    """Stands before an adapter of Tiled, and looks at what it is about to read.

    Parameters
    ----------
    adapter
        The adapter's class.
    mimetype
        Of what it reads.
    roots
        What it may read.
    """

    def __init__(self, adapter: Any, mimetype: str, roots: Sequence[Path]) -> None:
        self._adapter = adapter
        self._mimetype = mimetype
        self._roots = [root.resolve() for root in roots]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def from_catalog(self, data_source: Any, node: Any, /, **parameters: Any) -> Any:
        """Make the adapter of a node whose assets may be read.

        Raises
        ------
        CatalogError
            If one of them may not: its name, and why.
        """
        kept: list[h5py.File] = []
        uris = [asset.data_uri for asset in data_source.assets]
        uris += [uri for uri in parameters.get("data_uris") or () if uri is not None]
        for uri in dict.fromkeys(uris):
            if not uri.startswith("file:"):
                continue
            path = path_from_uri(uri)
            check_path(path, self._roots)
            if self._mimetype in HDF5 and path.is_file():
                dataset = parameters.get("dataset", "/")
                names = [dataset] if isinstance(dataset, str) else ["/".join(dataset)]
                # HDF5 opens a file that it has open only in the same way
                ours = self._mimetype != "application/x-hdf5"
                locking = False if ours else parameters.get("locking")
                swmr = ours or parameters.get("swmr", SWMR_DEFAULT)
                # as long as it is open nobody waits for what a kill tore
                kept.append(_open(path, swmr=swmr, locking=locking))
                check_hdf5(path, self._roots, names=names, swmr=swmr, locking=locking)
            elif path.is_file() and (size := path.stat().st_size) > ANSWER:
                raise CatalogError(
                    f"{_shown(path)} is not read: it has {size:,} bytes, and the most that one "
                    f"request may read are {ANSWER:,}"
                )
        adapter = self._adapter.from_catalog(data_source, node, **parameters)
        _check_pieces(getattr(adapter, "_array", None), uris[0] if uris else "an array")
        return CountedAdapter(adapter, kept=kept)


def check_path(path: Path, roots: Iterable[Path]) -> Path:
    """Give the real path of a file, which lies below one of the roots.

    Raises
    ------
    CatalogError
        If it does not, with every symbolic link on the way followed.
    """
    try:
        real = path.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a loop, a null byte
        raise CatalogError(f"{_shown(path)} is not read: {error}") from error
    if not any(real.is_relative_to(root) for root in roots):
        raise CatalogError(f"{_shown(path)} is not read: it leads out of what may be served")
    return real


def check_hdf5(
    path: Path,
    roots: Sequence[Path],
    *,
    names: Sequence[str] = ("/",),
    swmr: bool = True,
    locking: bool | None = False,
) -> None:
    """Refuse an HDF5 file if what is asked of it lies, or leads, somewhere else.

    Links to other files, and virtual datasets, may stay below the roots, and are looked at in
    their turn. External storage is nothing that offbragg writes, and is refused anywhere.

    Parameters
    ----------
    path
        The file.
    roots
        What may be read.
    names
        Datasets, or groups with all that is in them.
    swmr, locking
        How whoever reads it next opens it, in the same process.

    Raises
    ------
    CatalogError
        Naming the file, the object in it and what is wrong.
    """
    look = _Look([root.resolve() for root in roots], swmr=swmr, locking=locking)
    for name in names:
        look.at(path, name, 0)


class _Look:
    def __init__(self, roots: Sequence[Path], *, swmr: bool, locking: bool | None) -> None:
        self._roots = roots
        self._how: dict[str, Any] = {"swmr": swmr, "locking": locking}
        self._seen: set[tuple[Path, int]] = set()

    def at(self, path: Path, name: str, depth: int) -> None:
        real = check_path(path, self._roots)
        if not real.exists():
            return  # nothing is read
        try:
            with _open(real, **self._how) as file:
                self._follow(file, real, name, depth)
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise CatalogError(f"{_shown(path)} is not read: {printable(error)}") from error

    def _follow(self, group: h5py.Group, path: Path, name: str, depth: int) -> None:
        """Go from the root of a file to an object, link by link."""
        here: Any = group.file["/"]
        for part in (part for part in name.split("/") if part not in ("", ".")):
            if not isinstance(here, h5py.Group) or part not in here:
                return  # it is not there
            target = self._through(here, path, part, depth)
            if target is None:
                return
            here = target
        self._inspect(here, path, depth)

    def _through(self, group: h5py.Group, path: Path, part: str, depth: int) -> Any:
        """Give what one link leads to in this file; what leads elsewhere is looked at there."""
        if depth > _DEEPEST:
            raise CatalogError(f"{_shown(path)} is not read: {_shown(part)} leads in circles")
        link = group.get(part, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            self.at(path.parent / link.filename, link.path, depth + 1)
            return None
        if isinstance(link, h5py.SoftLink):
            target = link.path if link.path.startswith("/") else f"{group.name}/{link.path}"
            self._follow(group, path, target, depth + 1)
            return None
        return group[part]

    def _inspect(self, found: Any, path: Path, depth: int) -> None:
        where = f"{_shown(path)}: {_shown(found.name)}"
        key = path, h5o.get_info(found.id).addr
        if key in self._seen:
            return
        self._seen.add(key)
        if len(self._seen) > _MOST or depth > _DEEPEST:
            raise CatalogError(f"{where} is not read: there is no end to it")
        if isinstance(found, h5py.Dataset):
            _check_pieces(found, where)
            if found.external:
                raise CatalogError(f"{where} is not read: its data lie in another file, as bytes")
            for source in found.virtual_sources() if found.is_virtual else ():
                other = path if source.file_name == "." else path.parent / source.file_name
                self.at(other, source.dset_name, depth + 1)
        elif isinstance(found, h5py.Group):
            for part in map(str, found):
                target = self._through(found, path, part, depth)
                if target is None:
                    continue
                if isinstance(target, h5py.Group) and self._is_above(target, found):
                    raise CatalogError(f"{where} is not read: {_shown(part)} leads in circles")
                self._inspect(target, path, depth + 1)

    @staticmethod
    def _is_above(target: h5py.Group, group: h5py.Group) -> bool:
        address, place = h5o.get_info(target.id).addr, group
        while True:
            if h5o.get_info(place.id).addr == address:
                return True
            if place.name == "/":
                return False
            place = place.parent


def _open(path: Path, *, swmr: bool, locking: bool | None) -> h5py.File:
    try:
        return open_to_read(path, libver="latest", swmr=swmr, locking=locking)
    except (OSError, RuntimeError) as error:
        raise CatalogError(f"{_shown(path)} is not read: {printable(error)}") from error


def _check_pieces(array: Any, where: str) -> None:
    """Refuse an array of HDF5 or Zarr that cannot be read in parts."""
    shape = getattr(array, "shape", None)
    if not shape:
        return  # one number, or none
    if array.dtype.kind == "O" and math.prod(shape) > _MOST:
        raise CatalogError(f"{where} is not read: it has {math.prod(shape):,} texts of any length")
    piece = getattr(array, "chunksize", None) or getattr(array, "chunks", None) or shape
    size = math.prod(piece) * array.dtype.itemsize
    if size > PIECE:
        raise CatalogError(
            f"{where} is not read: it lies in pieces of {size:,} bytes, and each must be read as "
            f"a whole; the most are {PIECE:,}. Store it in smaller chunks"
        )
    count = math.prod(math.ceil(n / m) for n, m in zip(shape, piece, strict=True) if m)
    if count > _MOST:
        raise CatalogError(
            f"{where} is not read: it lies in {count:,} pieces, and the most are {_MOST:,}. "
            f"Store it in larger chunks"
        )


def _shown(name: object) -> str:
    return printable(name if isinstance(name, str) else str(name))
