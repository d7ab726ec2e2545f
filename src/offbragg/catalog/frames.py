"""Frames of a run, parts of them and its ledger over HTTP, also while it is measured.

``/runs/UID/ledger``, ``/runs/UID/frames/last?format=png``, ``/runs/UID/frames?index=0:500&roi=…``.
They are read from the scan file at the moment of asking, so a frame is there as soon as it is
stored. What several clients ask for is made once, by threads that let everything else come first.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from fastapi import HTTPException

from offbragg.catalog.authentication import App, Receive, Scope, Send, refuse
from offbragg.catalog.background import background_threads
from offbragg.catalog.frame_answers import (
    Found,
    find_frame,
    find_frames,
    find_ledger,
    find_planned,
    squeezed,
)
from offbragg.catalog.frame_questions import ManyFrames, OneFrame
from offbragg.catalog.kept import Kept
from offbragg.catalog.opened_runs import of_another
from offbragg.catalog.parameters import read_parameters
from offbragg.catalog.read_limits import answering, refusing_damaged
from offbragg.catalog.readable import Readable, shown
from offbragg.catalog.run_files import RunFiles
from offbragg.catalog.sent import OpenFile, Refusal, begin, matches
from offbragg.errors import CatalogError, OffbraggError, ScanFileError
from offbragg.files.scan_file import ScanFile
from offbragg.printable import printable

HEADERS = {OneFrame: "x-offbragg-frame", ManyFrames: "x-offbragg-frames"}
"""Headers of answers: JSON with what they hold, and of a picture the ends of its colours."""

_ADDRESS = re.compile(r"/runs/([^/]+)/(?:(ledger)|frames(?:/([^/]+))?)/?")
_TYPES = {
    "png": "image/png", "int32": "application/octet-stream", "bytes": "application/octet-stream",
    "npy": "application/x-npy", "json": "application/json", "sum": "application/json",
}  # fmt: skip
_KEPT = 64_000_000  # bytes of answers that are kept
_MOST_RUNNING = 100  # answers that are being made, or wait for it
_TRIES = 5  # of a file that is replaced while it is opened
_LEAST = 500  # bytes that are worth compressing
_EDITION = 1  # to be raised when the same question has another answer

_UNREADABLE = (OffbraggError, OSError, RuntimeError, ValueError, KeyError, TypeError, IndexError)
"""What comes of a damaged file, besides what says so."""

Question = OneFrame | ManyFrames | None
"""None asks for the ledger."""


@dataclass(frozen=True, slots=True)
class _Answer:
    etag: str
    body: bytes | None
    """None if the client has it."""
    described: str
    """Empty for what its body describes."""
    is_squeezed: bool


class Frames:
    """Answers requests for frames and ledgers, and passes on all others.

    Parameters
    ----------
    app
        The app that answers all other requests.
    files
        Finds the scan file of a run.
    readable
        Where files may be read.
    sources
        Where files that hold adopted frames may be read.
    """

    def __init__(self, app: App, files: RunFiles, readable: Readable, sources: Readable) -> None:
        self._app = app
        self._files = files
        self._readable = readable
        self._sources = sources
        # parts may take many seconds, and the page waits for one frame
        self._pools = {
            kind: background_threads(name)
            for kind, name in ((ManyFrames, "parts"), (OneFrame, "frames"), (type(None), "ledger"))
        }
        self._kept = Kept(_KEPT)
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        found = _ADDRESS.fullmatch(scope.get("path", "")) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        try:
            if scope["method"] not in ("GET", "HEAD"):
                raise Refusal(405, "Frames are read-only here: GET or HEAD.", allow="GET, HEAD")
            uid, ledger, index = found.groups()
            asked = _question(bool(ledger), index, scope["query_string"].decode("latin-1"))
            await self._answer(uid, asked, scope, send)
        except Refusal as refusal:
            await refuse(send, refusal.status, str(refusal), refusal.headers)
        except HTTPException as error:
            await refuse(send, error.status_code, str(error.detail), dict(error.headers or {}))
        except CatalogError as error:
            await refuse(send, 403, str(error))

    async def _answer(self, uid: str, asked: Question, scope: Scope, send: Send) -> None:
        run = await self._files.find(unquote(uid))
        headers = {k.decode().lower(): v.decode("latin-1") for k, v in scope["headers"]}
        tags, accepted = headers.get("if-none-match", ""), headers.get("accept-encoding", "")
        squeeze = "gzip" in (word.partition(";")[0].strip() for word in accepted.split(","))

        def work() -> _Answer:
            if run.path is None:
                return _answer_of(find_planned(run, asked), asked, tags, squeeze, self._kept)
            where = self._readable, self._sources
            return _made(where, run.path, run.uid, asked, tags, squeeze, self._kept)

        answer = await self._in_background(work, asked)
        form = "json" if asked is None else asked.format
        sent = {
            "etag": answer.etag,
            "cache-control": "private, no-cache",
            "vary": "accept-encoding",
        }
        if answer.described:
            sent[HEADERS[type(asked)]] = answer.described
        if answer.body is None:
            await begin(send, 304, sent)
            await send({"type": "http.response.body", "body": b""})
            return
        sent |= {"content-type": _TYPES[form], "content-length": str(len(answer.body))}
        if answer.is_squeezed:
            sent["content-encoding"] = "gzip"
        await begin(send, 200, sent)
        body = answer.body if scope["method"] == "GET" else b""
        await send({"type": "http.response.body", "body": body})

    async def _in_background(self, work: Callable[[], _Answer], asked: Question) -> _Answer:
        if self._running >= _MOST_RUNNING:
            why = f"{_MOST_RUNNING} answers about frames are being made or wait. Ask again later."
            raise Refusal(429, why, **{"retry-after": "5"})
        self._running += 1
        try:
            with answering(written_out=isinstance(asked, ManyFrames) and asked.format == "json"):
                context = contextvars.copy_context()
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(
                    self._pools[type(asked)], lambda: context.run(work)
                )
        finally:
            self._running -= 1


def _question(ledger: bool, index: str | None, query: str) -> Question:
    if ledger:
        read_parameters(query, (), "the ledger")
        return None
    return ManyFrames.parse(query) if index is None else OneFrame.parse(index, query)


def _made(
    where: tuple[Readable, Readable],
    path: Path,
    uid: str,
    asked: Question,
    tags: str,
    squeeze: bool,
    kept: Kept,
) -> _Answer:
    """Make an answer from the file that the path leads to now, if it is of this run."""
    readable, sources = where
    for left in reversed(range(_TRIES)):
        with OpenFile.below(readable, path) as file:
            try:
                with _opened(file, sources) as scan, refusing_damaged():
                    if scan.run != uid:
                        raise Refusal(410, of_another(path.name))
                    return _answer_of(_found(scan, file, asked), asked, tags, squeeze, kept)
            except (CatalogError, HTTPException):
                if not left or not file.is_replaced:
                    raise  # else a newer one has taken its place
            except _UNREADABLE as error:
                if not left or not file.is_replaced:
                    what = shown(str(error).partition("\n")[0])
                    raise CatalogError(f"{shown(path.name)} is not read: {what}") from error
    raise AssertionError


def _opened(file: OpenFile, sources: Readable) -> ScanFile:
    try:
        return ScanFile.open(file.path, descriptor=file.descriptor, allowed=sources.open)
    except FileNotFoundError:
        raise Refusal(410, f"{file.path.name} does not exist any more.") from None
    except ScanFileError as error:
        why = printable(str(error).partition("\n")[0])
        raise CatalogError(f"{shown(file.path.name)} is not read: {why}") from error


def _found(scan: ScanFile, file: OpenFile, asked: Question) -> Found:
    if asked is None:
        return find_ledger(scan, file.identity)
    if isinstance(asked, OneFrame):
        return find_frame(scan, asked, file.identity)
    return find_frames(scan, asked, file.identity)


def _answer_of(found: Found, asked: Question, tags: str, squeeze: bool, kept: Kept) -> _Answer:
    squeeze = squeeze and not (isinstance(asked, OneFrame) and asked.format == "png")
    which = (_EDITION, found.version, asked, squeeze)
    etag = f'"{hashlib.sha256(repr(which).encode()).hexdigest()[:32]}"'
    if matches(tags, etag):
        return _Answer(etag, None, "", False)

    def make() -> bytes:
        """Return the body with its description before it, so that both are kept as one."""
        body, more = found.make()
        is_squeezed = squeeze and len(body) >= _LEAST
        described = json.dumps({**found.described, **more} if found.described else {})
        body = squeezed(body) if is_squeezed else body
        return b"%d\n" % is_squeezed + described.encode() + b"\n" + body

    is_squeezed, described, body = kept.get(which, make).split(b"\n", 2)
    text = "" if described == b"{}" else described.decode()
    return _Answer(etag, body, text, is_squeezed == b"1")
