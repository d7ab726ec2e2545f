"""Cut planes, lines and boxes out of volumes on the server, so that no client moves a volume.

``/volumes/KEY/plane?plane=hk0.5&level=2&format=png``; `line` and `box` likewise, and what made a
cell, `why`. A file is opened once, and what was opened is read. What several clients ask for is
made once.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import io
import json
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import HTTPException

from offbragg.catalog.authentication import App, Receive, Scope, Send, refuse
from offbragg.catalog.background import background_threads
from offbragg.catalog.cell_origin import Origins
from offbragg.catalog.containers import VOLUMES
from offbragg.catalog.opened_runs import check_volume_seen
from offbragg.catalog.parameters import decimal, number, read_parameters
from offbragg.catalog.pictures import draw
from offbragg.catalog.read_limits import about_to_read, answering
from offbragg.catalog.readable import Readable
from offbragg.catalog.sent import OpenFile, Refusal, asset_of, begin, lookup, matches
from offbragg.catalog.sent_cuts import HEADER
from offbragg.catalog.viewers import Viewer, viewer
from offbragg.catalog.volume_files import opened_volume
from offbragg.errors import CatalogError, ReductionError
from offbragg.files.cut_source import DamagedVolume
from offbragg.files.cuts import Cut, cut_between, cut_box, cut_line, cut_plane
from offbragg.files.planes import Plane
from offbragg.files.volume_file import VolumeFile
from offbragg.printable import printable
from offbragg.reduction.symmetry import Laue

PATH = f"/{VOLUMES}/"
_KINDS: dict[str, Callable[..., Cut]] = {"plane": cut_plane, "line": cut_line, "box": cut_box}
_TYPES = {
    "png": "image/png", "float32": "application/octet-stream", "npy": "application/x-npy",
    "json": "application/json",
}  # fmt: skip
_COMMON = ("level", "format", "sigma", "symmetry")
_SAMPLE = "sample"  # symmetry: the class is that of the space group of the sample
_PARAMETERS = {
    "plane": ("plane", "value", "points", "thickness", "low", "high", *_COMMON),
    "line": ("line", "points", "thickness", *_COMMON),
    "box": ("box", *_COMMON),
    "why": ("hkl",),
}
_SHORT = {"hk": "hk0", "hl": "h0l", "kl": "0kl"}
_MOST_JSON = 100_000  # numbers
_KEPT = 64_000_000  # bytes of answers that are kept
_TRIES = 5  # of a volume that is replaced while it is opened
_MOST_RUNNING = 100  # answers that are being made, or wait for it
_PATH_HOLDS, _MOST_PATHS = 1.0, 10_000  # s; to ask the database takes as long as to draw
_FURTHEST = 100_000  # r.l.u., of a point
_EDITION = 2  # to be raised when the same question has another answer


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for; equal questions have equal answers."""

    kind: str
    what: Any
    thickness: float
    level: int
    format: str
    sigma: bool
    symmetry: str
    low: float | None
    high: float | None

    @classmethod
    def parse(cls, kind: str, query: str) -> Asked:
        """Read the parameters of a request.

        Raises
        ------
        Refusal, ReductionError
            Naming the one that is wrong.
        """
        given = read_parameters(query, _PARAMETERS[kind], kind)
        form = given.get("format", "png" if kind == "plane" else "json")
        if form not in _TYPES or (form == "png" and kind != "plane"):
            forms = [name for name in _TYPES if name != "png" or kind == "plane"]
            raise Refusal(
                400, f"format is {printable(form)}: it must be one of {', '.join(forms)}."
            )
        sigma = given.get("sigma", "0")
        if sigma not in ("0", "1", "false", "true"):
            raise Refusal(400, f"sigma is {printable(sigma)}: it must be 0 or 1.")
        with_sigma = sigma in ("1", "true")
        if with_sigma and form == "png":
            raise Refusal(400, "A picture has no sigma: ask for npy, float32 or json.")
        level = given.get("level", "1")
        if level not in ("1", "2", "4", "8"):
            raise Refusal(400, f"level is {printable(level)}: it must be 1, 2, 4 or 8.")
        ends = [number(given, name) for name in ("low", "high")]
        if any(end is not None and end <= 0 for end in ends):
            raise Refusal(400, "low and high must be above 0: the colours are logarithmic.")
        thickness = number(given, "thickness") or 0.0
        symmetry = given.get("symmetry", "")
        if symmetry and symmetry != _SAMPLE:
            symmetry = Laue.named(symmetry).name
        what = _what(kind, given)
        return cls(kind, what, thickness, int(level), form, with_sigma, symmetry, *ends)

    @property
    def is_written_out(self) -> bool:
        """Whether numbers of an array are written as text."""
        return self.format == "json" and self.kind in _KINDS

    def cut(self, file: VolumeFile) -> Cut:
        """Cut it out of a volume."""
        between = self.kind == "line" and not isinstance(self.what, str)
        more: dict[str, Any] = (
            {} if self.kind == "box" or between else {"thickness": self.thickness}
        )
        cut: Callable[..., Cut] = cut_between if between else _KINDS[self.kind]
        if self.symmetry:
            more["operations"] = _laue_of(file, self.symmetry).operations
        return cut(
            file, self.what, level=self.level, sigma=self.sigma, reading=about_to_read, **more
        )


def _laue_of(file: VolumeFile, symmetry: str) -> Laue:
    """Return the class over which a volume is to be symmetrised; its cells go to cells."""
    sample = file.sample
    lattice = None if sample is None else sample.lattice
    if symmetry != _SAMPLE:
        laue = Laue.named(symmetry, lattice)
    elif sample is None or not sample.space_group:
        raise ReductionError(
            f"{file.path.name} names no space group: give the Laue class, as symmetry=m-3m"
        )
    else:
        laue = Laue.of(sample.space_group, lattice)
    laue.check_grid(file.grid)
    return laue


def _what(kind: str, given: Mapping[str, str]) -> Any:
    if kind == "why":
        return _point(given.get("hkl", ""))
    if kind == "line" and "points" in given:
        if "line" in given or "thickness" in given:
            raise Refusal(400, "Give points, or line with thickness, not both.")
        return _points(given["points"], "two points with a semicolon between: 0,0,0;1,1,0")
    if kind != "plane":
        if kind not in given:
            raise Refusal(400, f"{kind} is missing: /{VOLUMES}/KEY/{kind}?{kind}=…")
        return _plain(kind, given[kind])
    if "points" in given:
        if "plane" in given or "value" in given:
            raise Refusal(400, "Give points, or plane with value, not both.")
        form = "three points with semicolons between: 0,0,0;1,1,0;0,0,1"
        return Plane.through(_points(given["points"], form))
    name = _plain("plane", given.get("plane", "hk0")).replace(" ", "").replace("·", "0")
    plane = Plane.parse(_SHORT.get(name, name))
    value = number(given, "value")
    return plane if value is None else plane.moved_to(value)


def _plain(name: str, text: str) -> str:
    """Return a text, if its digits are 0 to 9; Python's float takes those of all alphabets."""
    if any(letter.isdigit() and not letter.isascii() for letter in text):
        raise Refusal(400, f"{name} is {printable(text)}: numbers are written with 0 to 9.")
    return text


def _points(text: str, form: str) -> tuple[tuple[float, ...], ...]:
    try:
        return tuple(tuple(decimal(x) for x in point.split(",")) for point in text.split(";"))
    except ValueError:
        raise Refusal(400, f"points must be {form}.") from None


def _point(text: str) -> tuple[float, ...]:
    try:
        point = tuple(decimal(x) for x in text.split(","))
    except ValueError:
        point = ()
    if len(point) != 3 or not all(abs(x) < _FURTHEST for x in point):  # nor NaN
        raise Refusal(
            400, f"hkl is {printable(text)}: it must be a point in the cell, r.l.u., as 0.5,0.5,-1."
        )
    return point


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is sent; ``described`` is empty for what is not a cut."""

    body: bytes
    described: str


class Planes:
    """Answers requests for cuts, and passes on all others.

    Parameters
    ----------
    app
        The app that answers all other requests.
    tree
        The root of Tiled's catalog, to look up volumes.
    readable
        Where files may be read.
    """

    def __init__(self, app: App, tree: Any, readable: Readable) -> None:
        self._app = app
        self._tree = tree
        self._readable = readable
        self._origins = Origins(readable)
        self._pool = background_threads("planes")
        self._paths: dict[tuple[Viewer, str], tuple[Path, float]] = {}
        self._kept: OrderedDict[Any, _Answer] = OrderedDict()
        self._running: dict[Any, asyncio.Task[_Answer]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or not scope.get("path", "").startswith(PATH):
            await self._app(scope, receive, send)
            return
        try:
            if scope["method"] not in ("GET", "HEAD"):
                raise Refusal(405, "Volumes are read-only here: GET or HEAD.", allow="GET, HEAD")
            await self._answer(scope, send)
        except Refusal as refusal:
            await refuse(send, refusal.status, str(refusal), refusal.headers)
        except HTTPException as error:
            await refuse(send, error.status_code, str(error.detail), dict(error.headers or {}))
        except DamagedVolume as error:
            await refuse(send, 503, _first(error), {"retry-after": "60"})
        except ReductionError as error:
            await refuse(send, 400, _first(error))
        except CatalogError as error:
            await refuse(send, 403, str(error))

    async def _answer(self, scope: Scope, send: Send) -> None:
        key, _, kind = scope["path"].removeprefix(PATH).rpartition("/")
        if kind not in _PARAMETERS or not key or "/" in key:
            raise Refusal(404, f"The address is {PATH}KEY/plane, or line, box, why.")
        asked = Asked.parse(kind, scope["query_string"].decode("latin-1"))
        path = await self._path(key)
        for left in reversed(range(_TRIES)):
            with OpenFile.below(self._readable, path) as file:
                try:
                    await self._answer_from(file, asked, scope, send)
                    return
                except CatalogError:
                    if not left or not file.is_replaced:
                        raise  # else a newer one has taken its place: it grows

    async def _answer_from(self, file: OpenFile, asked: Asked, scope: Scope, send: Send) -> None:
        await check_volume_seen(self._tree, file)
        sent = {k.decode().lower(): v.decode("latin-1") for k, v in scope["headers"]}
        tag = f"{_EDITION}:{file.identity}:{asked}"
        etag = f'"{hashlib.sha256(tag.encode()).hexdigest()[:32]}"'
        headers = {"etag": etag, "cache-control": "private, no-cache"}
        if matches(sent.get("if-none-match", ""), etag):
            await begin(send, 304, headers)
            await send({"type": "http.response.body", "body": b""})
            return
        answer = await self._made((file.identity, asked), file, asked)
        headers["content-type"] = _TYPES[asked.format]
        headers["content-length"] = str(len(answer.body))
        if answer.described:
            headers[HEADER] = answer.described
        await begin(send, 200, headers)
        body = answer.body if scope["method"] == "GET" else b""
        await send({"type": "http.response.body", "body": body})

    async def _path(self, key: str) -> Path:
        now = time.monotonic()
        who = viewer()
        known, until = self._paths.get((who, key), (None, 0.0))
        if known is not None and now < until:
            return known
        path = await asset_of(self._tree, [VOLUMES, key, "intensity"])
        if path is None:
            there = await lookup(self._tree, [VOLUMES, key])
            why = "has no intensity" if there is not None else "does not exist"
            raise Refusal(404, f"This volume {why}. The container {VOLUMES} lists them.")
        if len(self._paths) >= _MOST_PATHS:
            self._paths.clear()
        self._paths[who, key] = path, now + _PATH_HOLDS
        return path

    async def _made(self, which: Any, file: OpenFile, asked: Asked) -> _Answer:
        """Return an answer that was kept, or is being made for another client, or make it."""
        if (kept := self._kept.get(which)) is not None:
            self._kept.move_to_end(which)
            return kept
        if which not in self._running:
            if len(self._running) >= _MOST_RUNNING:
                why = f"{_MOST_RUNNING} cuts are being made or wait. Ask again later."
                raise Refusal(429, why, **{"retry-after": "5"})
            task = asyncio.create_task(self._make(file, asked))
            self._running[which] = task
            task.add_done_callback(lambda done: self._keep(which, done))
        return await asyncio.shield(self._running[which])

    async def _make(self, file: OpenFile, asked: Asked) -> _Answer:
        # the client that asked first may leave before it is made
        mine = OpenFile(file.path, os.dup(file.descriptor), file.size, file.modified, file.identity)
        try:
            with answering(written_out=asked.is_written_out):
                if asked.kind == "why":
                    return _Answer(await self._origins.find(mine, asked.what), "")
                context = contextvars.copy_context()
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(
                    self._pool, lambda: context.run(_make, mine, asked)
                )
        finally:
            os.close(mine.descriptor)

    def _keep(self, which: Any, done: asyncio.Task[_Answer]) -> None:
        self._running.pop(which, None)
        if done.cancelled() or done.exception() is not None:
            return
        self._kept[which] = done.result()
        while sum(len(answer.body) for answer in self._kept.values()) > _KEPT:
            self._kept.popitem(last=False)


def _make(file: OpenFile, asked: Asked) -> _Answer:
    with opened_volume(file) as volume:
        cut = asked.cut(volume)
        laue = _laue_of(volume, asked.symmetry).name if asked.symmetry else volume.symmetry
    described = {
        "axes": [_axis(cut, i) for i in range(len(cut.axes))], "at": list(cut.at),
        "level": cut.level, "shape": list(cut.intensity.shape), "symmetry": laue,
    }  # fmt: skip
    if asked.format == "png":
        picture = draw(cut, low=asked.low, high=asked.high)
        described |= {"low": picture.low, "high": picture.high}
        body = picture.png
    elif asked.format == "json":
        body = _json(cut, described)
    else:
        arrays = cut.intensity if cut.sigma is None else np.stack([cut.intensity, cut.sigma])
        described["shape"] = list(arrays.shape)
        body = _npy(arrays) if asked.format == "npy" else arrays.astype("<f4").tobytes()
    file.check_unchanged()  # or half of it may be of another volume
    return _Answer(body, json.dumps(described))


def _axis(cut: Cut, number: int) -> dict[str, Any]:
    values = cut.axes[number]
    step = float(values[1] - values[0]) if len(values) > 1 else 0.0
    return {
        "direction": list(cut.directions[number]), "first": float(values[0]),
        "last": float(values[-1]), "step": step, "count": len(values),
    }  # fmt: skip


def _json(cut: Cut, described: Mapping[str, Any]) -> bytes:
    size = cut.intensity.size * (1 if cut.sigma is None else 2)
    if size > _MOST_JSON:
        raise Refusal(
            400,
            f"This would be {size:,} numbers as JSON; at most {_MOST_JSON:,} are written out. Ask "
            "for npy or float32, or a coarser level.",
        )
    arrays = {"intensity": cut.intensity} | ({} if cut.sigma is None else {"sigma": cut.sigma})
    written = {name: _listed(array) for name, array in arrays.items()}
    axes = [values.tolist() for values in cut.axes]
    return json.dumps({**described, "values": axes, **written}).encode()


def _listed(array: Any) -> Any:
    plain: Any = array.astype(object)
    plain[~np.isfinite(array)] = None
    return plain.tolist()


def _npy(array: Any) -> bytes:
    raw = io.BytesIO()
    np.save(raw, np.ascontiguousarray(array, "<f4"), allow_pickle=False)
    return raw.getvalue()


def _first(error: Exception) -> str:
    return printable(str(error).partition("\n")[0])
