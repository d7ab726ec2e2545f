"""A volume file that follows sums while they grow: what changed is written, and nothing else.

Two files take turns. One has the name, and is read. The other one, hidden beside it, is brought to
what the sums are, and takes the name at once: so whoever opens it finds a whole volume, at any
moment, and whoever kills its writer leaves one. A reader holds a shared lock on what it has open
(`offbragg.files.volume_file`); a file that is still read is left to its readers, and a copy of the
other one goes on in its place.

The chunks of the levels beyond 2 are written whenever there is something new, those of the cells in
passes: a pass writes all bricks that changed before it began, in several calls if it takes long, so
that the levels do not wait for them. In between, bricks are as new as their last writing, and the
record has the number of frames that are in all of them. When the sums are complete, so is the file;
then all chunks are copied in the order in which a volume is written at once, and the file is the
same to the last byte.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py

from offbragg.bricks import Bricks, brick_counts
from offbragg.files.draft import Draft, hdf5_in, new_hdf5
from offbragg.files.frame_pool import processors
from offbragg.files.lock import lock
from offbragg.files.volume_chunks import (
    AT_ONCE,
    BLOCK,
    Block,
    Chunk,
    ChunkMaker,
    MadeBricks,
    Place,
    at_once,
    in_order,
    offset_of,
    places_in,
)
from offbragg.files.volume_shells import Counted, Shells
from offbragg.files.volume_writer import (
    LIBVER,
    errors_of,
    lay_out,
    write_completeness,
    write_file,
    write_process,
)

_COARSE = 4  # levels from this one on are written whenever there is something new
_SPACE = {"fs_strategy": "fsm", "fs_persist": True}  # what is freed is used again the next time

_Key = tuple[str, Place]
_Arrays = Mapping[str, h5py.Dataset]


class GrowingVolume:
    """Keeps a volume file at what its sums are.

    Parameters
    ----------
    path
        Of the file; one that is there is replaced at the first update.
    bricks
        The sums. They must not change during a call.
    one_more
        Called after each brick; what it raises ends the call, and the file is as it was.
    threads
        How many compress; None: as many as there are processors.
    """

    def __init__(
        self,
        path: Path,
        bricks: Bricks,
        *,
        one_more: Callable[[], None] = lambda: None,
        threads: int | None = None,
    ) -> None:
        self.path, self._bricks = path, bricks
        self._one_more, self._threads = one_more, threads or processors()
        self._hidden, self._other = _hidden(path)
        self._along = brick_counts(bricks.grid)
        self._begin()

    def _begin(self) -> None:
        """Know nothing of what the files hold."""
        self.close()
        self._named: tuple[int, int] | None = None  # which file has the name
        self._maker: ChunkMaker | None = None
        self._blocks: dict[Place, Block] = {}
        self._counted: dict[Place, Counted] = {}
        every = itertools.product(*(range(n) for n in self._along))
        self._stale: set[Place] = set(every)  # bricks whose chunks are not what their sums are
        self._unsummed = set(self._stale)  # those that the levels do not have
        self._pass: list[Place] = []  # bricks that are still to be written in this pass, last first
        self._begun = self._in_all = 0  # frames when it began, and those in all cells
        self._stale_levels: set[tuple[int, Place]] = set()
        self._there: set[_Key] = set()  # chunks that hold something
        self._behind: set[_Key] = set()  # those that the hidden file does not have yet

    @property
    def in_pass(self) -> bool:
        """Whether cells are still to be written of those that were to be."""
        return bool(self._pass)

    def has(self, frames: int) -> bool:
        """Return whether all cells have all of a number of frames."""
        return self._in_all == frames and not self._stale

    def update(
        self,
        changed: Iterable[Place],
        record: Mapping[str, Any],
        *,
        frames: int | None = None,
        limit: float = math.inf,
    ) -> None:
        """Bring the file to what the sums are.

        Parameters
        ----------
        changed
            Bricks (along l, k, h) whose sums changed since the last call.
        record
            How the volume was made; plain JSON types.
        frames
            Number of frames in the sums; if it is given, ``cells`` in the record becomes the number
            of those that are in all cells. There may be more in some of them.
        limit
            Time for writing cells, s; the next call goes on with those that are left. 0: only
            levels from 4 on are written.

        Raises
        ------
        ReductionError
            If it cannot be written; the next call writes all of it.
        """
        self._change(changed)
        with self._writing(record) as file:
            self._write(file, record, frames=frames, limit=limit)
        self._take_turns()

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write what the last update wrote as `write_volume` does; nothing is kept.

        Parameters
        ----------
        record
            As for `update`.
        """
        if self._stale or self._stale_levels or _identity(self.path) != self._named:
            self.update([], record)
        made = self.path.with_name(f".{self.path.name}.new")
        made.unlink(missing_ok=True)  # left by one that was killed
        with errors_of(self.path), h5py.File(self.path, "r", locking=False) as source:
            with new_hdf5(made, libver=LIBVER) as file:

                def copy(arrays: _Arrays, levels: Mapping[int, h5py.Dataset]) -> Shells:
                    return self._copy_all(_by_name(source), arrays, levels)

                write_file(file, self._bricks, record, copy)
            made.replace(self.path)
        self._begin()

    def close(self) -> None:
        """Remove the hidden file, and what was left by a writer that was killed."""
        remove_hidden(self.path)

    # -- what is stale ---------------------------------------------------------------------------

    def _change(self, changed: Iterable[Place]) -> None:
        new = set(changed)
        self._stale |= new
        self._unsummed |= new

    def _block(self, place: Place) -> Block:
        """Return the sums of the levels of a brick."""
        assert self._maker is not None
        first = tuple(n // BLOCK * BLOCK for n in place)
        if first not in self._blocks:
            self._blocks[first] = self._maker.block(first)
        return self._blocks[first]

    def _write(
        self, file: h5py.File, record: Mapping[str, Any], *, frames: int | None, limit: float
    ) -> None:
        arrays, maker = _by_name(file), self._maker
        assert maker is not None
        done: set[_Key] = set()
        levels = [int(name) for name in arrays if name.isdigit()]
        for place in self._unsummed:  # else they are in the levels, or nothing is
            self._stale_levels.update((n, tuple(at // n for at in place)) for n in levels)
        for place in self._stale:
            self._block(place)  # threads find it
        with ThreadPoolExecutor(self._threads, thread_name_prefix="volume") as pool:
            if limit < math.inf:
                self._sum(pool)
            if limit > 0:
                self._write_cells(pool, arrays, done, frames or 0, limit)
            self._unsummed.clear()
            fine = limit > 0 and not self._pass
            which = sorted(at for at in self._stale_levels if fine or at[0] >= _COARSE)
            for chunk in in_order(pool, self._make_level, which, self._threads):
                self._store([chunk], arrays, done)
            self._stale_levels.difference_update(which)
        self._catch_up(arrays, self._behind - done)
        self._behind = done
        if fine:
            self._in_all = self._begun
        entry: Any = file["entry"]
        del entry["process"]
        write_process(entry, record if frames is None else {**record, "cells": self._in_all})
        if fine and "completeness" in entry:
            del entry["completeness"]
        if "completeness" not in entry:
            write_completeness(file, maker.shells)

    def _sum(self, pool: ThreadPoolExecutor) -> None:
        """Add the bricks that changed to the levels."""

        def add(places: Sequence[Place]) -> None:
            assert self._maker is not None
            self._maker.coarse(places, self._block)

        for _ in in_order(pool, add, at_once(sorted(self._unsummed)), self._threads):
            self._one_more()

    def _write_cells(
        self,
        pool: ThreadPoolExecutor,
        arrays: _Arrays,
        done: set[_Key],
        frames: int,
        limit: float,
    ) -> None:
        """Write bricks of this pass, or of a new one, until the time is over."""
        maker, end = self._maker, time.monotonic() + limit
        assert maker is not None
        if not self._pass or limit == math.inf:
            self._pass, self._begun = sorted(self._stale, reverse=True), frames

        def goes() -> Iterator[list[Place]]:
            while self._pass and (time.monotonic() < end or not done):
                yield [self._pass.pop() for _ in range(min(AT_ONCE, len(self._pass)))]

        def make(places: Sequence[Place]) -> MadeBricks:
            return maker.make(places, self._block, self._counted)

        for made in in_order(pool, make, goes(), self._threads):
            for place, chunks, counted in made.bricks:
                self._store(chunks, arrays, done)
                maker.shells.add(counted, instead=self._counted.get(place))
                self._counted[place] = counted
                self._stale.discard(place)
                self._one_more()
            maker.stored(made)

    def _make_level(self, at: tuple[int, Place]) -> Chunk:
        """Compress a chunk of a level."""
        n, place = at
        bricks = tuple(n * each for each in place)
        within = tuple(each % (BLOCK // n) for each in place)
        return self._block(bricks).chunk((n, within))

    def _store(self, chunks: Iterable[Chunk], arrays: _Arrays, done: set[_Key]) -> None:
        """Store chunks; one that holds nothing any more becomes one of the fill value."""
        assert self._maker is not None
        for name, place, chunk in chunks:
            key = (name, place)
            if chunk is None and key not in self._there:
                continue
            content = self._maker.blank[name] if chunk is None else chunk
            arrays[name].id.write_direct_chunk(offset_of(place), content)
            done.add(key)
            if chunk is None:
                self._there.discard(key)
            else:
                self._there.add(key)

    def _catch_up(self, arrays: _Arrays, keys: Iterable[_Key]) -> None:
        """Copy what the file that has the name got in its turn."""
        if self._named is None:
            return
        with h5py.File(self.path, "r", locking=False) as file:
            _copy(_by_name(file), arrays, sorted(keys))

    def _copy_all(
        self, source: _Arrays, arrays: _Arrays, levels: Mapping[int, h5py.Dataset]
    ) -> Shells:
        """Copy all chunks in the order of `write_arrays`."""
        assert self._maker is not None
        into = {**arrays, **{str(level): data for level, data in levels.items()}}
        for first in itertools.product(*(range(0, n, BLOCK) for n in self._along)):
            bricks = itertools.product(places_in(self._along, first), arrays)
            keys: list[_Key] = [(name, place) for place, name in bricks]
            for n in levels:
                along = [-(-size // n) for size in self._along]
                begin = [at // n for at in first]
                counts = [
                    range(a, min(a + BLOCK // n, end)) for a, end in zip(begin, along, strict=True)
                ]
                keys += [(str(n), place) for place in itertools.product(*counts)]
            _copy(source, into, (key for key in keys if key in self._there))
        return self._maker.shells

    # -- two files -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self, record: Mapping[str, Any]) -> Generator[h5py.File]:
        """Open the hidden file to be changed; what fails is written from the beginning again."""
        if self._named is not None and _identity(self.path) != self._named:
            self._begin()  # somebody else replaced it
        try:
            with errors_of(self.path):
                descriptor = self._open_hidden()
                try:
                    made = Draft(self._hidden, descriptor, self._hidden)
                    mode, more = ("r+", {}) if os.fstat(descriptor).st_size else ("w", _SPACE)
                    with hdf5_in(made, mode=mode, passing=True, libver=LIBVER, **more) as file:
                        if mode == "w":
                            self._lay_out(file, record)
                        yield file
                finally:
                    os.close(descriptor)
        except BaseException:
            self._begin()
            raise

    def _lay_out(self, file: h5py.File, record: Mapping[str, Any]) -> None:
        arrays, levels = lay_out(file, self._bricks, record)
        entry: Any = file["entry"]
        write_process(entry, record)
        self._maker = ChunkMaker(self._bricks, arrays, levels)

    def _open_hidden(self) -> int:
        """Open the hidden file, which nobody reads: else a copy of the other one, or an empty one.

        Returns
        -------
        descriptor
            It has an exclusive lock until it is closed.
        """
        if self._named is not None:
            with contextlib.suppress(OSError):  # not there yet; still read; or there are no locks
                return _locked(self._hidden, os.O_RDWR)
            self._hidden.unlink(missing_ok=True)
            shutil.copyfile(self.path, self._hidden)
            self._behind = set()
            return os.open(self._hidden, os.O_RDWR)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._hidden.unlink(missing_ok=True)
        return os.open(self._hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)

    def _take_turns(self) -> None:
        """Let the hidden file have the name, and hide the one that had it."""
        with errors_of(self.path):
            self._other.unlink(missing_ok=True)
            kept = False
            if self._named is not None:
                with contextlib.suppress(OSError):  # not every disk has second names
                    os.link(self.path, self._other)
                    kept = True
            self._hidden.replace(self.path)
            self._named = _identity(self.path)
            if kept:
                self._other.replace(self._hidden)


def remove_hidden(path: Path) -> None:
    """Remove what a writer of a growing volume that was killed has left beside it."""
    for hidden in _hidden(path):
        hidden.unlink(missing_ok=True)


def _hidden(path: Path) -> tuple[Path, Path]:
    """Return the file that takes turns with a volume, and the name that it has for a moment."""
    return path.with_name(f".{path.name}.next"), path.with_name(f".{path.name}.old")


def _copy(source: _Arrays, into: _Arrays, keys: Iterable[_Key]) -> None:
    """Copy chunks as they are stored."""
    for name, place in keys:
        offset = offset_of(place)
        into[name].id.write_direct_chunk(offset, source[name].id.read_direct_chunk(offset)[1])


def _by_name(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Return all arrays of a volume file by the names that its chunks have."""
    entry: Any = file["entry"]
    arrays = {
        name: data
        for group in ("volume", "data", "transform")
        for name, data in entry[group].items()
        if isinstance(data, h5py.Dataset) and data.chunks is not None and data.ndim == 3
    }
    return {**arrays, **{level: group["intensity"] for level, group in entry["levels"].items()}}


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _locked(path: Path, flags: int) -> int:
    """Open a file that nobody else has open, as far as locks tell."""
    descriptor = os.open(path, flags)
    try:
        lock(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
