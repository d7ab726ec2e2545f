"""Answer ``/runs`` and ``/runs/UID``: what was measured, also while it is measured."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from tiled.catalog import orm

from offbragg.catalog.authentication import App, Receive, Scope, Send, refuse
from offbragg.catalog.containers import CONTAINER, FINISHED
from offbragg.catalog.downloads import FILES
from offbragg.catalog.readable import Readable
from offbragg.catalog.run_search import (
    RUNNING,
    RunSearch,
    asked,
    begins_so,
    run_row,
)
from offbragg.catalog.search_index import dialect_of
from offbragg.catalog.searched import MEMBERS, RUNS, VOLUMES
from offbragg.catalog.sent import OpenFile, Refusal, asset_of, begin, matches, state
from offbragg.catalog.viewers import seen_runs, seen_volumes, viewer
from offbragg.errors import CatalogError, OffbraggError
from offbragg.files.scan_file import ScanFile
from offbragg.printable import printable

PATH = "/runs"
_SHORTEST = 5  # characters of the beginning of a uid
_MOST_GROWING = 5  # runs of a list whose scan files are opened; there is hardly ever more than one
_COUNTS_HOLD = 0.5  # s
_PACKED = 1000  # bytes; shorter answers are sent as they are

_log = logging.getLogger(__name__)

Begun = Callable[[str], bool]


class RunRoutes:
    """Answers requests for runs, and passes on all others.

    Parameters
    ----------
    app
        The app that answers all other requests.
    tree
        The root of Tiled's catalog.
    readable
        Where files may be read.
    begun
        Returns whether a run with this uid is being measured, though the catalog lacks it yet.
    """

    def __init__(
        self, app: App, tree: Any, readable: Readable, begun: Begun = lambda uid: False
    ) -> None:
        self._app = app
        self._tree = tree
        self._readable = readable
        self._begun = begun
        self._counts: dict[str, tuple[float, dict[str, int]]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope.get("path", "")
        name = path.removeprefix(f"{PATH}/")
        if scope["type"] != "http" or not (path == PATH or (name != path and "/" not in name)):
            await self._app(scope, receive, send)
            return
        query = scope["query_string"].decode("latin-1")
        answer = self._list(query) if path == PATH else self._run(unquote(name), query)
        await answer_json(answer, scope, send)

    async def _list(self, query: str) -> dict[str, Any]:
        search = RunSearch.parse(query)
        dialect = dialect_of(self._tree.context.engine)
        async with self._tree.context.engine.connect() as connection:
            after = None
            if search.before:
                where = select(RUNS.c.time, RUNS.c.node_id).where(
                    RUNS.c.uid == search.before, seen_runs()
                )
                if (last := (await connection.execute(where)).first()) is None:
                    raise Refusal(400, "before is not the uid of a run: it must be that of a row.")
                after = float(last[0]), int(last[1])
            found = (await connection.execute(search.rows(dialect, after))).mappings().all()
            total = await connection.scalar(search.total(dialect))
        growing = [row["uid"] for row in found if row["status"] is None][:_MOST_GROWING]
        counts = {uid: await self.frame_counts(uid) for uid in growing}
        rows = [run_row(row, counts.get(row["uid"])) for row in found[: search.limit]]
        return {"runs": rows, "total": total, "more": len(found) > search.limit}

    async def _run(self, name: str, query: str) -> dict[str, Any]:
        asked(query, (), f"{PATH}/UID")
        found = await self.find(name)
        uid, node = found["uid"], found["node_id"]
        volumes = (
            select(VOLUMES.c.uid, VOLUMES.c.file, VOLUMES.c.state)
            .join(MEMBERS, MEMBERS.c.node_id == VOLUMES.c.node_id)
            .where(MEMBERS.c.run == uid, seen_volumes())
            .order_by(VOLUMES.c.written.desc())
        )
        children = select(orm.Node.key).where(orm.Node.parent == node).order_by(orm.Node.id)
        async with self._tree.context.engine.connect() as connection:
            metadata = await connection.scalar(
                select(orm.Node.metadata_).where(orm.Node.id == node)
            )
            streams = list(await connection.scalars(children))
            made = (await connection.execute(volumes)).all()
        metadata = metadata or {}
        start = metadata.get("start") or {}
        status = found["status"] or RUNNING
        counts = await self.frame_counts(uid) if status == RUNNING else None
        scan = await asset_of(self._tree, [CONTAINER, uid, "primary", "internal"])
        files = await asyncio.to_thread(
            self._files, uid, scan, status != RUNNING, [(Path(file), how) for _, file, how in made]
        )
        return {
            "row": run_row(found, counts),
            "start": start,
            "stop": metadata.get("stop") or None,
            "geometry": start.get("geometry"),
            "streams": streams,
            "volumes": [key for key, _, _ in made],
            "files": files,
        }

    async def find(self, name: str) -> Mapping[str, Any]:
        """Find a run by its uid, the beginning of it, or its scan id.

        Raises
        ------
        Refusal
            404 if there is none, 400 if several uids begin so.
        """
        newest = select(RUNS).where(seen_runs()).order_by(RUNS.c.time.desc(), RUNS.c.node_id.desc())
        async with self._tree.context.engine.connect() as connection:
            if len(name) >= _SHORTEST and re.fullmatch(r"[ -~]{1,200}", name):
                exact = (await connection.execute(newest.where(RUNS.c.uid == name))).mappings()
                if (run := exact.first()) is not None:
                    return run
                begin_so = newest.where(begins_so(name)).limit(2)
                found = (await connection.execute(begin_so)).mappings().all()
                if len(found) > 1:
                    uids = ", ".join(str(each["uid"]) for each in found)
                    raise Refusal(400, f"Several runs begin with {name}: {uids}. Give more of it.")
                if found:
                    return found[0]
            if re.fullmatch(r"[0-9]{1,15}", name):
                numbered = newest.where(RUNS.c.scan_id == float(name)).limit(1)
                if (run := (await connection.execute(numbered)).mappings().first()) is not None:
                    return run
            count = await connection.scalar(
                select(func.count()).select_from(RUNS).where(seen_runs())
            )
        if viewer().sees_everything and await asyncio.to_thread(self._begun, name):
            why = f"Run {name} has no frame yet: it has just begun. Ask again."
            raise Refusal(404, why, **{"retry-after": "1"})
        raise Refusal(
            404,
            f"None of {count} runs is this one. The address is {PATH}/UID with a uid, its first "
            f"{_SHORTEST} characters or more, or a scan id; {PATH} lists the runs.",
        )

    async def frame_counts(self, uid: str) -> dict[str, int]:
        """Return how many frames of a run have each status, from its scan file; {} without one."""
        now = time.monotonic()
        known = self._counts.get(uid)
        if known is not None and now - known[0] < _COUNTS_HOLD:
            return known[1]
        path = await asset_of(self._tree, [CONTAINER, uid, "primary", "internal"])
        counts: dict[str, int] = {}
        if path is not None:
            counts = await asyncio.to_thread(self._counted, path, uid) or (
                known[1] if known else {}
            )
        if len(self._counts) > 100:
            self._counts.clear()
        self._counts[uid] = now, counts
        return counts

    def _counted(self, path: Path, uid: str) -> dict[str, int]:
        try:
            with (
                OpenFile.below(self._readable, path) as file,
                ScanFile.open(file.path, descriptor=file.descriptor) as scan,
            ):
                return scan.ledger.counts() if scan.run == uid else {}
        except (OffbraggError, Refusal, OSError):  # it is being written, or gone: asked again soon
            return {}

    def _files(
        self, uid: str, scan: Path | None, ended: bool, volumes: list[tuple[Path, str]]
    ) -> list[dict[str, Any]]:
        """List the files of a run that can be fetched: its scan file, and volumes beside it.

        A scan file is whole if its run has ended and its ledger can be read; what its frames hold
        is looked at when they are sent.
        """
        if scan is None:
            return []
        near = [(path, how == FINISHED) for path, how in volumes if path.parent == scan.parent]
        listed: list[dict[str, Any]] = []
        opens = ended and bool(self._counted(scan, uid))
        for path, whole in ((scan, opens), *near):
            try:
                size, modified, _ = state(self._readable.real(path))
            except (CatalogError, OSError):
                continue
            address = f"{FILES}{quote(uid)}/{quote(path.name)}"
            listed.append(
                {"name": path.name, "address": address, "size": size, "modified": modified,
                 "whole": whole}
            )  # fmt: skip
        return listed


def only_reads(scope: Scope) -> None:
    """Refuse a request that does not only read."""
    if scope["method"] not in ("GET", "HEAD"):
        raise Refusal(405, "This is read-only: GET or HEAD.", allow="GET, HEAD")


async def answer_json(answer: Coroutine[Any, Any, object], scope: Scope, send: Send) -> None:
    """Send what is asked for as JSON, or why it cannot be answered."""
    try:
        only_reads(scope)
        await send_json(await answer, scope, send)
    except Refusal as refusal:
        await refuse(send, refusal.status, str(refusal), refusal.headers)
    except (SQLAlchemyError, OSError) as error:
        first = printable(str(getattr(error, "orig", None) or error).partition("\n")[0])
        _log.warning("the catalog's database did not answer: %s", first)
        await refuse(
            send, 503, "The catalog's database does not answer; the server's log has the reason.",
            {"retry-after": "5"},
        )  # fmt: skip
    finally:
        answer.close()


async def send_json(answer: object, scope: Scope, send: Send) -> None:
    """Send an answer as JSON: packed if it is long, nothing if the client has it."""
    body = json.dumps(answer, allow_nan=False, separators=(",", ":")).encode()
    sent = {k.decode().lower(): v.decode("latin-1") for k, v in scope["headers"]}
    headers = {
        "content-type": "application/json", "cache-control": "private, no-cache",
        "vary": "accept-encoding", "etag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
    }  # fmt: skip
    if matches(sent.get("if-none-match", ""), headers["etag"]):
        await begin(send, 304, headers)
        await send({"type": "http.response.body", "body": b""})
        return
    if len(body) > _PACKED and "gzip" in sent.get("accept-encoding", ""):
        body = gzip.compress(body, 1, mtime=0)
        headers["content-encoding"] = "gzip"
    headers["content-length"] = str(len(body))
    await begin(send, 200, headers)
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
