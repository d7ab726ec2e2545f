"""Answer ``/now``, ``/now/history`` and the websocket ``/now/socket``: the beamline at this moment.

One task looks at the beamline, however many look at it, and makes one text of what it has seen.
Everybody gets that text.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from offbragg.catalog.authentication import App, Receive, Scope, Send
from offbragg.catalog.now_history import NowHistory
from offbragg.catalog.now_seen import now_seen, points_seen, whose
from offbragg.catalog.parameters import decimal, read_parameters
from offbragg.catalog.run_routes import answer_json
from offbragg.catalog.searched import RUNS
from offbragg.catalog.sent import Refusal
from offbragg.catalog.viewers import viewer

if TYPE_CHECKING:
    from fastapi import FastAPI

PATH = "/now"
EVERY = 0.5
"""Time between two looks while somebody asks, s."""

_SELDOM = 2.0  # s between two looks while nobody does
_ASKED = 30.0  # s after a question
_ALIVE = 10.0  # s without a change after which a websocket shows that it lives
_SOCKETS = 200
_STEP = 1.0  # s between two points of a history
_MINUTES = 60.0
_OVERLOADED = 1013  # why a websocket is closed, RFC 6455's registry
_CURVES = {
    "temperature": ("temperature", "K"), "monitor": ("monitor", "counts"),
    "ring": ("ring current", "mA"), "stored": ("frames stored", ""),
    "behind": ("frames behind", ""),
}  # fmt: skip
_NO_BEAMLINE = (
    "This catalog serves no beamline, so it does not know what one is doing. "
    "offbragg serve --beamline FILE knows."
)

_log = logging.getLogger(__name__)

Look = Callable[[], dict[str, Any]]


class Now:
    """Answers requests for what the beamline is doing, and passes on all others.

    Parameters
    ----------
    app
        The app that answers all other requests.
    look
        Looks at the beamline, as `offbragg.now.BeamlineNow` does; it may block. None: there is
        no beamline.
    tree
        The root of Tiled's catalog, to count its runs.
    history
        Where what is seen is kept; without: in memory alone.
    """

    def __init__(
        self, app: App, look: Look | None, tree: Any, history: NowHistory | None = None
    ) -> None:
        self._app = app
        self._look = look
        self._tree = tree
        self._seen: dict[str, Any] = {}
        self._text = ""
        self._number = 0  # of the text: grows with each change
        self._changed = asyncio.Condition()
        self._looking = asyncio.Lock()
        self._looked = -math.inf  # the clock of the host may be set, this one may not
        self._asked = 0.0
        self._sockets = 0
        self._history = history or NowHistory()

    # -- looking ---------------------------------------------------------------------------

    def watch_with(self, app: FastAPI) -> None:
        """Look at the beamline for as long as an app runs."""
        lifespan = app.router.lifespan_context

        @contextlib.asynccontextmanager
        async def with_looks(app: FastAPI) -> AsyncIterator[Any]:
            async with lifespan(app) as state:
                looking = asyncio.create_task(self._run())
                try:
                    yield state
                finally:
                    looking.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await looking

        if self._look is not None:
            app.router.lifespan_context = with_looks

    async def _run(self) -> None:
        while True:
            began = time.monotonic()
            try:
                await self._look_once()
            except Exception:
                _log.exception("the beamline cannot be looked at")
            busy = self._sockets or began - self._asked < _ASKED
            await asyncio.sleep(EVERY if busy else _SELDOM)

    async def _look_once(self) -> None:
        """Look at the beamline, unless somebody has just done so."""
        assert self._look is not None
        async with self._looking:
            if time.monotonic() - self._looked < EVERY / 2:
                return
            seen = finite(await asyncio.to_thread(self._look))
            async with self._tree.context.engine.connect() as connection:
                runs = await connection.scalar(select(func.count()).select_from(RUNS))
            seen["catalog"] = {"runs": runs}
            self._remember(seen)
            await self._publish(seen)
            self._looked = time.monotonic()

    async def _publish(self, seen: dict[str, Any]) -> None:
        if _without_times(seen) == _without_times(self._seen):
            self._seen = seen
            return
        async with self._changed:
            self._seen, self._number = seen, self._number + 1
            self._text = json.dumps(seen, allow_nan=False)
            self._changed.notify_all()

    def _remember(self, seen: dict[str, Any]) -> None:
        now = seen["time"]
        values = seen["engine"].get("values") or {}
        point: dict[str, Any] = {"t": now, "of": whose(seen)}
        for name in ("temperature", "monitor", "ring"):
            if (value := values.get(name)) and abs(now - value.get("time", now)) < 30.0:
                point[name] = value["value"]
        if "temperature" in point:
            point |= {key: values["temperature"].get(key) for key in ("set", "window")}
        if frames := seen.get("frames"):
            point |= {"stored": frames["stored"], "behind": frames["behind"]}
            point["frames_of"] = str(frames.get("run") or "")  # the stacker may lag behind a run
        self._history.add(point, step=0.9 * _STEP)

    # -- answers ---------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope.get("path", "")
        if scope["type"] == "websocket" and path == f"{PATH}/socket":
            await self._serve_socket(receive, send)
            return
        if scope["type"] != "http" or path not in (PATH, f"{PATH}/history", f"{PATH}/socket"):
            await self._app(scope, receive, send)
            return
        await answer_json(self._answer(path, scope["query_string"].decode("latin-1")), scope, send)

    async def _answer(self, path: str, query: str) -> dict[str, Any]:
        if self._look is None:
            raise Refusal(404, _NO_BEAMLINE)
        if path.endswith("/socket"):
            raise Refusal(426, "This is a websocket: ws://…/now/socket.", upgrade="websocket")
        self._asked = time.monotonic()
        return await self._now(query) if path == PATH else await self._curves(query)

    async def _now(self, query: str) -> dict[str, Any]:
        read_parameters(query, (), PATH)
        if time.monotonic() - self._looked > 2 * EVERY:
            await self._look_once()  # the first one, or nobody has asked for a while
        return await now_seen(self._tree.context.engine, self._seen)

    async def _curves(self, query: str) -> dict[str, Any]:
        text = read_parameters(query, ("minutes",), f"{PATH}/history").get("minutes", "15")
        try:
            minutes = decimal(text)
        except ValueError:
            minutes = 0.0
        if not 0 < minutes <= _MINUTES:
            raise Refusal(400, f"minutes must be above 0 and at most {_MINUTES:g}.")
        since = time.time() - 60 * minutes
        recent = self._history.since(since)
        points = await points_seen(self._tree.context.engine, recent)
        curves: dict[str, Any] = {}
        for name, (label, unit) in _CURVES.items():
            mine = [point for point in points if name in point]
            if not mine:
                continue
            is_temperature = name == "temperature"
            curves[name] = {
                "label": label, "unit": unit,
                "t": [round(point["t"], 2) for point in mine],
                "y": [point[name] for point in mine],
                "set": [point.get("set") for point in mine] if is_temperature else None,
                "window": mine[-1].get("window") if is_temperature else None,
            }  # fmt: skip
        return {"curves": curves}

    async def _serve_socket(self, receive: Receive, send: Send) -> None:
        """Send what is seen, at once and when it changes; a slow client gets the newest only."""
        await receive()  # that it wants to connect
        if self._look is None or self._sockets >= _SOCKETS:
            await send({"type": "websocket.close", "code": _OVERLOADED})
            return
        await send({"type": "websocket.accept"})
        self._sockets += 1
        sending = asyncio.create_task(self._send_changes(send))
        try:
            while (await receive())["type"] != "websocket.disconnect":
                pass  # whatever a client sends
        finally:
            self._sockets -= 1
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await sending

    async def _send_changes(self, send: Send) -> None:
        if time.monotonic() - self._looked > 2 * EVERY:
            await self._look_once()
        number, sent = -1, {}
        loop = asyncio.get_running_loop()
        until = loop.time() + _ALIVE
        while True:
            try:
                async with asyncio.timeout_at(until), self._changed:
                    while self._number == number:
                        await self._changed.wait()
                    number, seen, text = self._number, self._seen, self._text
                if not viewer().sees_everything:
                    seen = await now_seen(self._tree.context.engine, seen)
                    if (mine := _without_times(seen)) == sent:
                        continue  # what has changed is not theirs
                    sent, text = mine, json.dumps(seen, allow_nan=False)
            except TimeoutError:
                text = json.dumps({"alive": time.time()})
            await send({"type": "websocket.send", "text": text})
            until = loop.time() + _ALIVE


def finite(value: Any) -> Any:
    """Return a JSON value with null where a number is not finite.

    Examples
    --------
    >>> finite({"a": [float("nan"), 1.0]})
    {'a': [None, 1.0]}
    """
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _without_times(seen: dict[str, Any]) -> dict[str, Any]:
    """Return what has to change for it to be news."""
    engine = {k: v for k, v in seen.get("engine", {}).items() if k != "age"}
    return {**{k: v for k, v in seen.items() if k not in ("time", "host")}, "engine": engine}
