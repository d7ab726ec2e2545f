"""Send scan files and volume files as they are on the disk, in pieces and with a digest.

``/files/UID`` lists the files of a run, ``/files/UID/NAME`` is one of them, and Tiled's client asks
for them in ``raw_export``. A file is opened once, and what was opened is checked and sent; if it
changes while it is sent, the answer breaks off, so that no client takes it for complete.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email.utils
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from offbragg.catalog.authentication import App, Receive, Scope, Send, refuse
from offbragg.catalog.opened_runs import are_seen, of_another
from offbragg.catalog.readable import Readable, shown
from offbragg.catalog.sent import OpenFile, Refusal, asset_of, begin, lookup, matches
from offbragg.catalog.volumes import inputs_of
from offbragg.errors import CatalogError, OffbraggError
from offbragg.files.digest import digest_path
from offbragg.files.scan_file import ScanFile
from offbragg.files.superblock import superblock_of
from offbragg.files.volume_file import VolumeFile

FILES = "/files/"
_ASSETS = "/api/v1/asset/bytes/"
_CONTAINER, _PRIMARY, _ROWS = "raw", "primary", "internal"
_PIECE = 256 * 1024  # bytes that are in memory at a time for each client
_HASHED = 1 << 20  # bytes that are hashed at a time
_PATIENCE = 5.0  # s that an answer waits for its digest
_REMEMBERED = 10_000  # digests that are kept
_RANGE = re.compile(r"bytes=\s*([0-9]{0,30})\s*-\s*([0-9]{0,30})\s*")
_MOST = 1000  # files beside a scan file that are examined
_MOST_RECORD = 4_000_000  # bytes of a volume's record; it takes up to 30 times as much memory
_ONE_RECORD = threading.Lock()  # so that only one is in memory, whatever the number of requests
_NO_ASSET = "This node does not exist, or it has no file with this id."
_TYPES = {".h5": "application/x-hdf5", ".digest": "application/json"}


class Downloads:
    """Answers requests for files, and passes on all others.

    Parameters
    ----------
    app
        The app that answers all other requests.
    tree
        The root of Tiled's catalog, to look up nodes.
    readable
        Where files may be read.
    """

    def __init__(self, app: App, tree: Any, readable: Readable) -> None:
        self._app = app
        self._tree = tree
        self._readable = readable
        self._reading = ThreadPoolExecutor(4, thread_name_prefix="download")
        self._hashing = ThreadPoolExecutor(1, thread_name_prefix="digest")
        self._digests: dict[tuple[int, ...], asyncio.Future[str]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope.get("path", "")
        ours = scope["type"] == "http" and path.startswith((FILES, _ASSETS))
        if not ours:
            await self._app(scope, receive, send)
            return
        try:
            if scope["method"] not in ("GET", "HEAD"):
                raise Refusal(405, "Files are read-only: GET or HEAD.", allow="GET, HEAD")
            if path.startswith(_ASSETS):
                found, uid = await self._asset(path.removeprefix(_ASSETS), scope)
                await self._send_file(found, uid, scope, receive, send)
            else:
                await self._answer(path.removeprefix(FILES), scope, receive, send)
        except Refusal as refusal:
            await refuse(send, refusal.status, str(refusal), refusal.headers)
        except CatalogError as error:
            await refuse(send, 403, str(error))

    async def _answer(self, asked: str, scope: Scope, receive: Receive, send: Send) -> None:
        uid, _, name = asked.strip("/").partition("/")
        scan = await self._scan_file(uid)
        stem = name.removesuffix(".sha256")
        if not stem.endswith(".h5"):  # their list and digest; what is sent itself is looked at then
            with self._opened(scan) as file:
                await asyncio.to_thread(_check_run, file, uid)
        names = await self._names(scan, uid)
        if not name:
            await self._list(uid, scan, names, send)
            return
        if stem not in names:
            raise Refusal(404, f"Run {uid} has no file of this name. /files/{uid} lists them.")
        if stem == name:
            await self._send_file(scan.with_name(name), uid, scope, receive, send)
            return
        with self._opened(scan.with_name(stem)) as file:
            await self._check_whole(file, uid)
            digest = await asyncio.shield(self._digest(file))
        await _send_text(send, f"{digest}  {stem}\n".encode(), "text/plain; charset=utf-8")

    # -- which files ---------------------------------------------------------------------------

    async def _scan_file(self, uid: str) -> Path:
        path = await asset_of(self._tree, [_CONTAINER, uid, _PRIMARY, _ROWS])
        if path is None:
            if uid and await lookup(self._tree, [_CONTAINER, uid]) is not None:
                raise Refusal(404, f"Run {uid} has no scan file in the catalog.")
            raise Refusal(
                404, "This run does not exist. The address is /files/UID with the whole uid."
            )
        return path

    async def _asset(self, node: str, scope: Scope) -> tuple[Path, str]:
        """Return the file that is asked for, and its run; of a volume, none."""
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("id", [""])[0]
        if not re.fullmatch(r"[0-9]{1,12}", asked):
            raise Refusal(400, "id must be the number of an asset.")
        segments = [unquote(part) for part in node.split("/") if part]
        path = await asset_of(self._tree, segments, int(asked))
        if path is None:
            raise Refusal(404, _NO_ASSET)
        return path, segments[1] if segments[0] == _CONTAINER else ""

    async def _names(self, scan: Path, uid: str) -> list[str]:
        """List the files of a run: its scan file, its digest, and the volumes made of it.

        A volume is also of other runs: who does not see all of them does not see it.
        """
        names, volumes = await asyncio.to_thread(self._beside, scan, uid)
        for name, runs in volumes.items():
            if await are_seen(self._tree, runs):
                names.append(name)
        return names

    def _beside(self, scan: Path, uid: str) -> tuple[list[str], dict[str, set[str]]]:
        """Return the names of a run's own files, and of its volumes with the runs of each."""
        names = [scan.name]
        volumes: dict[str, set[str]] = {}
        with contextlib.suppress(CatalogError, OSError):
            os.close(self._readable.open(digest_path(scan)))
            names.append(digest_path(scan).name)
        with contextlib.suppress(OSError):
            here = self._readable.real(scan).parent
            others = sorted(p.name for p in here.glob("*.h5") if p.name not in names)
            for name in others[:_MOST]:
                if uid in (runs := self._runs_of(scan, name)):
                    volumes[name] = runs
        return names, volumes

    def _runs_of(self, scan: Path, name: str) -> set[str]:
        """Return the runs of a volume; none if it is not a volume."""
        with (
            contextlib.suppress(OffbraggError, Refusal, OSError, KeyError, TypeError),
            self._opened(scan.with_name(name)) as file,
            _opened_volume(file) as volume,
        ):
            return {str(source["run"]) for source in volume.record["inputs"]}
        return set()

    async def _list(self, uid: str, scan: Path, names: list[str], send: Send) -> None:
        files: list[dict[str, Any]] = []
        for name in names:
            with self._opened(scan.with_name(name)) as file:
                known = self._digests.get(file.identity)
                entry: dict[str, Any] = {
                    "name": name,
                    "address": f"{FILES}{quote(uid)}/{quote(name)}",
                    "size": file.size,
                    "modified": file.modified,
                    "sha256": known.result() if known and _is_known(known) else None,
                    "whole": True,
                }
                try:
                    await self._check_whole(file, uid)
                except Refusal as refusal:
                    entry |= {"whole": False, "why": str(refusal)}
                files.append(entry)
        await _send_text(
            send, json.dumps({"run": uid, "files": files}, indent=1).encode(), "application/json"
        )

    def _opened(self, path: Path) -> contextlib.AbstractContextManager[OpenFile]:
        return OpenFile.below(self._readable, path)

    async def _check_whole(self, file: OpenFile, uid: str) -> None:
        """Refuse a file that is not whole, or not of the run, or whose runs are not all seen."""
        if file.path.suffix != ".h5":
            return
        runs = await asyncio.to_thread(_check_whole, file)
        if uid and uid not in runs:
            raise Refusal(410, of_another(file.path.name))
        if not await are_seen(self._tree, runs):
            raise Refusal(404, _NO_ASSET)

    # -- their bytes ---------------------------------------------------------------------------

    async def _send_file(
        self, path: Path, uid: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        with self._opened(path) as file:
            await self._check_whole(file, uid)
            headers = {
                "accept-ranges": "bytes",
                "etag": file.etag,
                "last-modified": email.utils.formatdate(file.modified, usegmt=True),
                "content-type": _TYPES.get(path.suffix, "application/octet-stream"),
                "content-disposition": f'attachment; filename="{quote(path.name)}"',
                "cache-control": "private, no-cache",
            }
            with contextlib.suppress(TimeoutError):
                digest = await asyncio.wait_for(asyncio.shield(self._digest(file)), _PATIENCE)
                coded = base64.b64encode(bytes.fromhex(digest)).decode()
                headers["repr-digest"] = f"sha-256=:{coded}:"
            asked = {name.decode().lower(): value.decode("latin-1")
                     for name, value in scope["headers"]}  # fmt: skip
            status, first, stop = _part(asked, file, headers)
            if status == 206:
                headers["content-range"] = f"bytes {first}-{stop - 1}/{file.size}"
            if status != 304:
                headers["content-length"] = str(stop - first)
            await begin(send, status, headers)
            if scope["method"] == "GET" and status != 304:
                await self._send_bytes(file, first, stop, receive, send)
            await send({"type": "http.response.body", "body": b""})

    async def _send_bytes(
        self, file: OpenFile, at: int, stop: int, receive: Receive, send: Send
    ) -> None:
        loop = asyncio.get_running_loop()
        gone = asyncio.create_task(_until_gone(receive))
        try:
            while at < stop:
                count = min(_PIECE, stop - at)
                body = await loop.run_in_executor(
                    self._reading, os.pread, file.descriptor, count, at
                )
                at += len(body)
                if not body or at == stop:
                    file.check_unchanged()  # before the last piece: without it nothing is whole
                if gone.done():
                    return
                await send({"type": "http.response.body", "body": body, "more_body": True})
        finally:
            gone.cancel()

    def _digest(self, file: OpenFile) -> asyncio.Future[str]:
        """Start to hash a file, once for all requests."""
        known = self._digests.get(file.identity)
        if known is not None and not (known.done() and not _is_known(known)):
            return known
        while len(self._digests) >= _REMEMBERED:
            self._digests.pop(next(iter(self._digests)))
        hashing = asyncio.get_running_loop().run_in_executor(
            self._hashing, _sha256, os.dup(file.descriptor)
        )
        hashing.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._digests[file.identity] = hashing
        return hashing


def _is_known(digest: asyncio.Future[str]) -> bool:
    return digest.done() and not digest.cancelled() and digest.exception() is None


@contextlib.contextmanager
def _opened_volume(file: OpenFile) -> Iterator[VolumeFile]:
    with (
        _ONE_RECORD,
        VolumeFile(file.path, descriptor=file.descriptor, most_text=_MOST_RECORD) as volume,
    ):
        yield volume


def _check_run(file: OpenFile, uid: str) -> None:
    """Refuse a scan file of another run; what cannot be opened is looked at when it is sent."""
    with (
        contextlib.suppress(OffbraggError),
        ScanFile.open(file.path, descriptor=file.descriptor) as scan,
    ):
        if scan.run != uid:
            raise Refusal(410, of_another(file.path.name))


def _check_whole(file: OpenFile) -> set[str]:
    """Return the runs of a file; refuse one that is neither a complete scan file nor a volume.

    Raises
    ------
    Refusal
        409 while it is being written; 403 if it is another file.
    """
    try:
        block = superblock_of(os.pread(file.descriptor, 48, 0), file.path)
        if block.writing:
            raise Refusal(
                409,
                f"{file.path.name} is still being written. Ask again when the run has its stop "
                f"document; its frames can be read meanwhile.",
            )
        try:
            with ScanFile.open(file.path, descriptor=file.descriptor) as scan:
                counts, complete, run = scan.ledger.counts(), scan.complete, scan.run
        except OffbraggError:
            with _opened_volume(file) as volume:
                return {str(each.get("run")) for each in inputs_of(volume.record)}
    except OffbraggError as error:
        raise Refusal(403, f"Only scan files and volumes are sent: {shown(error)}") from error
    if not complete:
        raise Refusal(
            409,
            f"{file.path.name} is not finished: {counts['pending']} of {sum(counts.values())} "
            f"frames are pending. offbragg stack finishes it; ask again then.",
        )
    return {run}


def _part(
    asked: Mapping[str, str], file: OpenFile, headers: Mapping[str, str]
) -> tuple[int, int, int]:
    """Return the status, the first byte to send, and the one after the last."""
    if "if-match" in asked and not matches(asked["if-match"], file.etag):
        raise Refusal(412, f"{file.path.name} has changed since then.", etag=file.etag)
    if "if-none-match" in asked and matches(asked["if-none-match"], file.etag):
        return 304, 0, 0
    whole = 200, 0, file.size
    if asked.get("if-range", file.etag) not in (file.etag, headers["last-modified"]):
        return whole
    found = _RANGE.fullmatch(asked.get("range", ""))
    if found is None or not (found[1] or found[2]):
        return whole  # no range, several ranges, or one that is not valid
    if found[1]:
        first = int(found[1])
        stop = min(int(found[2]) + 1, file.size) if found[2] else file.size
        if found[2] and int(found[2]) < first:
            return whole
    else:
        first, stop = max(file.size - int(found[2]), 0), file.size
    if first >= stop:
        raise Refusal(
            416,
            f"{file.path.name} has {file.size:,} bytes.",
            **{"content-range": f"bytes */{file.size}", "etag": file.etag},
        )
    return 206, first, stop


def _sha256(descriptor: int) -> str:
    digest, at = hashlib.sha256(), 0
    try:
        while piece := os.pread(descriptor, _HASHED, at):
            digest.update(piece)
            at += len(piece)
    finally:
        os.close(descriptor)
    return digest.hexdigest()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_text(send: Send, body: bytes, kind: str) -> None:
    headers = {"content-type": kind, "content-length": str(len(body)), "cache-control": "no-store"}
    await begin(send, 200, headers)
    await send({"type": "http.response.body", "body": body})
