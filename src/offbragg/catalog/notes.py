"""Notes on runs: ``/runs/UID/notes``, and ``/me``: who asks, and what they may see and annotate.

A note is added and never changed. Notes lie in files of their own, one for each run, beside the
catalog's database: they are not made of frames and journals, so nothing that is rebuilt loses them.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sqlalchemy import select

from offbragg.catalog.authentication import App, Receive, Scope, Send, is_of_another_page, refuse
from offbragg.catalog.page import read_body
from offbragg.catalog.run_routes import RunRoutes, answer_json, send_json
from offbragg.catalog.run_search import asked
from offbragg.catalog.searched import RUNS
from offbragg.catalog.sent import Refusal
from offbragg.catalog.viewers import EVERYTHING, viewer

FOLDER = "notes"
ME = "/me"
TEXT = 2000  # characters of a note
NOTES = 1000  # of a run
_ADDRESS = re.compile(r"/runs/([^/]+)/notes")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


class Notes:
    """Answers requests for notes and for who asks, and passes on all others.

    Parameters
    ----------
    app
        The app that answers all other requests.
    directory
        The catalog's directory.
    runs
        Finds runs.
    tree
        The root of Tiled's catalog.
    """

    def __init__(self, app: App, directory: Path, runs: RunRoutes, tree: Any) -> None:
        self._app = app
        self._folder = directory / FOLDER
        self._runs = runs
        self._engine = tree.context.engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope.get("path", "")
        found = _ADDRESS.fullmatch(path)
        if scope["type"] != "http" or not (found or path == ME):
            await self._app(scope, receive, send)
            return
        query = scope["query_string"].decode("latin-1")
        if found is None:
            await answer_json(_me(query), scope, send)
        elif scope["method"] != "POST":
            await answer_json(self._list(unquote(found[1]), query), scope, send)
        else:
            try:
                await send_json(await self._add(unquote(found[1]), scope, receive), scope, send)
            except Refusal as refusal:
                await refuse(send, refusal.status, str(refusal), refusal.headers)

    async def _list(self, name: str, query: str) -> dict[str, Any]:
        asked(query, (), "/runs/UID/notes")
        uid = str((await self._runs.find(name))["uid"])
        return {"run": uid, "notes": await asyncio.to_thread(read_notes, self._folder, uid)}

    async def _add(self, name: str, scope: Scope, receive: Receive) -> dict[str, Any]:
        if is_of_another_page(scope):
            raise Refusal(403, "A page of another origin may not annotate.")
        run = await self._runs.find(name)
        await self._check_may(run["proposal"])
        given = await read_body(scope, receive)
        text = given.get("text")
        if given.keys() != {"text"} or not isinstance(text, str) or not text.strip():
            raise Refusal(400, 'The body is {"text": …}, with text.')
        if len(text) > TEXT or not text.replace("\n", " ").isprintable():
            raise Refusal(400, f"A note has at most {TEXT} characters, none of them for control.")
        note = {"time": time.time(), "by": viewer().name, "text": text.strip()}
        uid = str(run["uid"])
        await asyncio.to_thread(_append, self._folder, uid, note)
        return {"run": uid, **note}

    async def _check_may(self, proposal: str | None) -> None:
        """Refuse those who may not annotate runs of a proposal, or not now."""
        may = viewer().annotates
        if may == EVERYTHING:
            return
        newest = select(RUNS.c.proposal).order_by(RUNS.c.time.desc(), RUNS.c.node_id.desc())
        if not may or proposal not in may:
            raise Refusal(403, "Only the scientists of a proposal annotate its runs.")
        async with self._engine.connect() as connection:
            measured = await connection.scalar(newest.limit(1))
        if measured != proposal:
            raise Refusal(403, "Scientists annotate while their proposal is measured.")


async def _me(query: str) -> dict[str, Any]:
    asked(query, (), ME)
    who = viewer()
    return {
        "name": who.name,
        "everything": who.sees_everything,
        "proposals": [] if who.sees == EVERYTHING else sorted(who.sees),
        "annotates": ["*"] if who.annotates == EVERYTHING else sorted(who.annotates),
    }


def read_notes(folder: Path, uid: str) -> list[dict[str, Any]]:
    """Return the notes on a run, oldest first; a line that was cut off by a crash is left out."""
    if not _NAME.fullmatch(uid):
        return []
    try:
        lines = (folder / f"{uid}.jsonl").read_bytes().splitlines()
    except FileNotFoundError:
        return []
    notes: list[dict[str, Any]] = []
    for line in lines:
        try:
            notes.append(json.loads(line))
        except ValueError:
            continue
    return notes


def _append(folder: Path, uid: str, note: dict[str, Any]) -> None:
    """Append a note, and return once it is on the disk."""
    if not _NAME.fullmatch(uid):
        raise Refusal(400, "A run with such a uid has no notes.")
    if len(read_notes(folder, uid)) >= NOTES:
        raise Refusal(409, f"A run has at most {NOTES} notes.")
    folder.mkdir(mode=0o700, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    descriptor = os.open(folder / f"{uid}.jsonl", flags, 0o600)
    try:
        # begins with a new line: what a crash has cut off does not spoil this one
        os.write(descriptor, b"\n" + json.dumps(note).encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
