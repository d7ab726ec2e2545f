"""Keep HDF5 from waiting for ever, and read a file in which a kill tore a write.

Linux ends a write between two pages when it kills a process. What HDF5 wrote there keeps the
old checksum. A reader of a growing file takes that for a write that is still under way, and
HDF5 reads it a hundred times, waiting twice as long after each: for ever.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
from h5py import h5d, h5l, h5p  # pyright: ignore[reportAttributeAccessIssue]

from offbragg.errors import ScanFileError
from offbragg.files.root import path_of
from offbragg.files.superblock import lookup3, released_superblock
from offbragg.private_parts import PrivatePart, examine

LIBVER = ("v110", "v110")
"""Newer layouts cannot be read by programs with HDF5 1.10."""

# how often a reader of a growing file reads what does not agree with its checksum: 0.5 s in all,
# longer than a busy disk keeps a writer between two pages
_ATTEMPTS = 29
_MOST_MENDS = 1000  # each may have been torn by another kill


def open_to_read(
    path: Path,
    *,
    swmr: bool = True,
    libver: Any = LIBVER,
    locking: bool | None = False,
    descriptor: int | None = None,
) -> h5py.File:
    """Open a file for reading that may grow; what a kill tore is an error after 0.5 s.

    While a file is open, HDF5 uses the settings of whoever opened it first in this process, so all
    must open it in this way.

    Parameters
    ----------
    path
        The file.
    swmr, libver, locking
        As h5py has them.
    descriptor
        Of the file, if it is open: then that file is read, whatever the path leads to now.

    Raises
    ------
    OSError, RuntimeError
        As h5py does.
    """
    driver = _patience() if swmr else None  # who reads what does not grow reads it once
    name = path if descriptor is None else path_of(descriptor)
    return h5py.File(name, "r", libver=libver, swmr=swmr, locking=locking, driver=driver)


def _patience() -> str:
    """Return the name of our driver; h5py knows it from the first file on that is opened here."""
    if _PATIENCE not in h5py.registered_drivers():
        h5py.register_driver(_PATIENCE, _with_patience)
    return _PATIENCE


def _with_patience(access: Any) -> None:
    access.set_fapl_sec2()
    with contextlib.suppress(AttributeError):
        _limit_attempts(access)


def _limit_attempts(access: Any) -> None:
    # h5py has no name for it; its modules lead to the very library that it uses
    library = ctypes.CDLL(h5p.__file__)
    identifier, count = ctypes.c_int64(access.id), ctypes.c_uint()
    if library.H5Pset_metadata_read_attempts(identifier, ctypes.c_uint(_ATTEMPTS)) < 0:
        raise ScanFileError("HDF5 does not take a number of attempts to read")
    library.H5Pget_metadata_read_attempts(identifier, ctypes.byref(count))
    if count.value != _ATTEMPTS:
        raise ScanFileError("HDF5 takes another number of attempts to read than it is given")


_PATIENCE = "offbragg-patience"


def self_test() -> PrivatePart:
    """Return whether a read of what a kill tore ends; without it, it lasts for hours."""
    return examine(
        "h5py", "an end to reading what a kill tore",
        lambda: _limit_attempts(h5p.create(h5p.FILE_ACCESS)),
    )  # fmt: skip


# -- what lies in the file itself --------------------------------------------------------------

_DEEPEST = 32  # soft links on the way to one thing


def find_inside(file: h5py.File, name: str, path: Path | None = None) -> Any:
    """Return an object of an HDF5 file, which lies in that file with all of its data.

    HDF5 follows a link into any other file, and takes a dataset's values from there, and says
    nothing about it. So each link on the way is looked at before it is followed.

    Parameters
    ----------
    file
        Open.
    name
        Of the object, from the file's root.
    path
        Of the file, for messages, where it was opened by another one.

    Raises
    ------
    KeyError
        If it is not there.
    OSError
        If it is there, and HDF5 cannot open it: it is damaged.
    ScanFileError
        If it, or a part of it, lies in another file: named with what leads there.
    """
    return _find(file, file["/"], name, str(path or file.filename), 0)


def _find(file: h5py.File, group: Any, name: str, path: str, depth: int) -> Any:
    here: Any = file["/"] if name.startswith("/") else group
    for part in (part for part in name.split("/") if part not in ("", ".")):
        where = f"{path}: {str(here.name).rstrip('/')}/{part}"
        if not isinstance(here, h5py.Group):
            raise KeyError(f"{where} is not there")
        link = link_of(here, part)
        if link is None:
            raise KeyError(f"{where} is not there")
        if isinstance(link, h5py.SoftLink):
            if depth >= _DEEPEST:
                raise ScanFileError(f"{where} leads in circles")
            here = _find(file, here, link.path, path, depth + 1)
        elif isinstance(link, h5py.HardLink):
            here = open_linked(here, part, where)
        else:
            raise ScanFileError(f"{where} is not read: it is a link to another file")
    if isinstance(here, h5py.Dataset) and (elsewhere := lies_elsewhere(here)):
        raise ScanFileError(f"{path}: {here.name} is not read: {elsewhere}")
    return here


def link_of(group: h5py.Group, name: str) -> Any:
    """Return a link of a group without following it; None if there is none.

    Returns
    -------
    link
        `h5py.HardLink`, `h5py.SoftLink` or `h5py.ExternalLink`; for one that HDF5 does not define
        itself, its number.
    """
    links, raw = group.id.links, name.encode("utf-8", "surrogateescape")
    if not links.exists(raw):
        return None
    kind = links.get_info(raw).type
    if kind == h5l.TYPE_HARD:
        return h5py.HardLink()
    if kind == h5l.TYPE_SOFT:
        return h5py.SoftLink(links.get_val(raw).decode("utf-8", "surrogateescape"))
    if kind == h5l.TYPE_EXTERNAL:
        filename, path = (text.decode("utf-8", "surrogateescape") for text in links.get_val(raw))
        return h5py.ExternalLink(filename, path)
    return kind


def open_linked(group: h5py.Group, name: str, where: str) -> Any:
    """Open an object of which the link is there.

    Raises
    ------
    OSError
        If HDF5 cannot open it. What h5py raises then is a KeyError, as for what is not there.
    """
    try:
        return group[name]
    except KeyError as error:
        raise OSError(f"{where} cannot be read: {error.args[0]}") from error


def lies_elsewhere(dataset: h5py.Dataset) -> str:
    """Return how a dataset takes its values from other files; empty if it does not.

    Its shape is not asked for: for that of a virtual one HDF5 opens those files.
    """
    layout = dataset.id.get_create_plist()
    if layout.get_layout() == h5d.VIRTUAL:
        return "it is a virtual dataset, which is made of others"
    if layout.get_external_count():
        return "its data lie in another file, as bytes"
    return ""


def follow_no_external_link() -> None:
    """Let HDF5 follow no external link in this process any more; they can be seen all the same.

    Raises
    ------
    ScanFileError
        If it does not obey.
    """
    # h5py has no name for it; its modules lead to the very library that it uses
    register = getattr(ctypes.CDLL(h5p.__file__), "H5Lregister", None)
    if register is None or register(ctypes.byref(_SEEN_ONLY)) < 0:
        raise ScanFileError("HDF5 cannot be kept from following links to other files")


class _LinkClass(ctypes.Structure):
    """H5L_class_t: what HDF5 does with a kind of links."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("id", ctypes.c_int),
        ("comment", ctypes.c_char_p),
        ("create", ctypes.c_void_p),
        ("move", ctypes.c_void_p),
        ("copy", ctypes.c_void_p),
        ("traverse", ctypes.c_void_p),
        ("delete", ctypes.c_void_p),
        ("query", ctypes.c_void_p),
    )


_Traverse = ctypes.CFUNCTYPE(
    ctypes.c_int64, ctypes.c_char_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_size_t,
    ctypes.c_int64, ctypes.c_int64,
)  # fmt: skip
_Query = ctypes.CFUNCTYPE(
    ctypes.c_ssize_t, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p,
    ctypes.c_size_t,
)  # fmt: skip


@_Traverse
def _lead_nowhere(*_: Any) -> int:
    return -1


@_Query
def _copy_value(_: Any, value: int, size: int, room: int | None, room_size: int) -> int:
    if room:
        ctypes.memmove(room, value, min(size, room_size))
    return size


_SEEN_ONLY = _LinkClass(
    version=1,
    id=h5l.TYPE_EXTERNAL,
    comment=b"seen, and not followed",
    traverse=ctypes.cast(_lead_nowhere, ctypes.c_void_p),
    query=ctypes.cast(_copy_value, ctypes.c_void_p),
)


# -- what a kill tore --------------------------------------------------------------------------


def read_torn(path: Path, use: Callable[[h5py.File], Any]) -> h5py.File:
    """Open a file that its writer left, believing what a kill tore.

    Nothing of the file is changed. What was written before the torn write is in both halves, so
    it is right; whatever else is taken from it must have a checksum of its own.

    Parameters
    ----------
    path
        The file, which no process writes.
    use
        Reads what may be torn.

    Returns
    -------
    file
        Open for reading.

    Raises
    ------
    ScanFileError
        If it cannot be read even so.
    """
    view = _Torn(path)
    for _ in range(_MOST_MENDS):
        file = None
        try:
            file = h5py.File(view, "r")
            use(file)
            return file
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            if file is not None:
                file.close()
            if not view.believe_last():
                raise ScanFileError(
                    f"{path} is damaged: {error}\n"
                    "offbragg stack --once --repair rebuilds it from the frame files."
                ) from error
    raise ScanFileError(f"{path} is damaged in more than {_MOST_MENDS} places")


class _Torn(io.FileIO):
    """A file as it would be had its writer closed it: no mark, and checksums that agree."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "r")
        self._instead: dict[int, bytes] = {0: released_superblock(path)}
        self._last = (0, b"")

    def readinto(self, buffer: Any, /) -> int:
        start = self.tell()
        count = super().readinto(buffer) or 0
        read = memoryview(buffer).cast("B")[:count]
        for at, right in self._instead.items():
            first, stop = max(at, start), min(at + len(right), start + count)
            if first < stop:
                read[first - start : stop - start] = right[first - at : stop - at]
        self._last = start, bytes(read)
        return count

    def believe_last(self) -> bool:
        """Believe what was read last, if it has a checksum and does not agree with it."""
        start, raw = self._last
        if len(raw) <= 4:
            return False
        right = struct.pack("<I", lookup3(raw[:-4]))
        if right == raw[-4:] or start + len(raw) - 4 in self._instead:
            return False
        self._instead[start + len(raw) - 4] = right
        return True
