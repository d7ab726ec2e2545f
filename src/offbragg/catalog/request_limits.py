"""Limits of what a client of the catalog may send, and of how long it may take.

A client that sends too much is refused, one that never finishes is cut off, and the others do not
notice. Other limits are elsewhere: of what a request may read in `read_limits`; of wrong keys in a
minute in `authentication`; of the chunks, links and groups of one file in `inside`; of the files
beside a scan file that are examined for a download in `downloads`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from offbragg.catalog.authentication import App, Message, Receive, Scope, Send, refuse
from offbragg.catalog.read_limits import answering
from offbragg.private_parts import PrivatePart, examine

DOCUMENT = 10_000_000  # bytes of the body of a request
UPLOAD = 150_000_000  # bytes of a body that holds an array or a table
UPLOADING = 60.0  # time limit for a body, s
HEAD = 65_536  # bytes of a request's first line and headers
HEADING = 5.0  # time limit for these, and for a silent connection, s
STALLED = 20.0  # time limit for a client to take one piece of its answer, s
SOCKETS = 500  # beyond this number the one that has been silent for longest is cut off
_RESTARTING = 1012  # why a websocket is closed, RFC 6455's registry
_PIECE = 1_000_000  # bytes that are sent at a time
_DATA = tuple(f"/api/v1/{kind}/" for kind in ("array", "table", "node", "awkward", "ragged"))
_WORDS = rb"json(?!-seq)|csv|html|text|image|png|tif|excel|sheet|xls|xdi"
_FORMAT, _ACCEPT = re.compile(rb"(^|&)format=[^&]*(%b)" % _WORDS), re.compile(_WORDS)


class RequestLimits:
    """Limits the size and duration of requests and answers.

    Parameters
    ----------
    app
        The app that answers the requests.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            try:
                await self._app(scope, receive, send)
            except asyncio.CancelledError:  # as below
                with contextlib.suppress(Exception):  # it may be closed
                    await send({"type": "websocket.close", "code": _RESTARTING})
            return
        body = _Body(scope, receive, send)
        if body.refused:  # by its own content-length
            await body.refuse_body()
            return
        with answering(written_out=_is_written_out(scope)):
            try:
                await self._app(scope, body.receive, body.send)
            except Exception:
                if not body.refused:
                    raise
            except asyncio.CancelledError:
                # uvicorn is ending, and has waited for this answer: else it logs a failure
                await body.refuse(503, "The catalog is shutting down. Ask again later.")
                return
        if body.refused:
            await body.refuse_body()


def _is_written_out(scope: Scope) -> bool:
    """Return whether text or a picture is asked for."""
    accepted = b"".join(value for name, value in scope["headers"] if name == b"accept")
    return bool(_FORMAT.search(scope["query_string"]) or _ACCEPT.search(accepted))


class _Body:
    """The body of a request, read up to its limit, and the answer, sent in pieces."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._limit = DOCUMENT
        if scope["method"] in ("PUT", "PATCH") and scope["path"].startswith(_DATA):
            self._limit = UPLOAD
        self._bytes = 0
        self._more = True
        self._answering = False
        self._until = asyncio.get_running_loop().time() + UPLOADING
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        self.refused = 413 if any(int(length) > self._limit for length in lengths) else 0

    async def receive(self) -> Any:
        if not self._more:
            return await self._receive()  # returns when the client is gone
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            self.refused = 408
            return {"type": "http.disconnect"}
        self._bytes += len(message.get("body", b""))
        self._more = message.get("more_body", False)
        if self._bytes > self._limit:
            self.refused = 413
            return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        if self.refused and not self._answering:
            return  # the answer of the app to a client that is gone
        self._answering = True
        while len(body := message.get("body", b"")) > _PIECE:
            await self._send({**message, "body": body[:_PIECE], "more_body": True})
            message = {**message, "body": memoryview(body)[_PIECE:]}
        await self._send(message)

    async def refuse_body(self) -> None:
        why = f"A request may bring {self._limit:,} bytes"
        why += f" within {UPLOADING:g} s." if self.refused == 408 else "; this one brings more."
        await self.refuse(self.refused, why)

    async def refuse(self, status: int, why: str) -> None:
        if not self._answering:
            await refuse(self._send, status, why)


class Connection(H11Protocol):
    """A connection that is cut off when its client asks for nothing, or does not take its answer.

    uvicorn waits for ever: for the first request, for the rest of its headers, and for a client
    to take its answer.
    """

    _silent: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Wait for the first request, and cut off another connection if there are too many."""
        super().connection_made(transport)
        self._wait_for_request()
        if len(self.connections) > SOCKETS:
            silent = [c for c in self.connections if isinstance(c, Connection) and c.is_silent]
            silent = [c for c in silent if not c.transport.is_closing()]
            min(silent, key=lambda connection: connection._since).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        for timer in (self._silent, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    @property
    def is_silent(self) -> bool:
        """Whether its client has not sent a request yet, or no further one."""
        return self.cycle is None or self.cycle.response_complete

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._wait_for_request()
        super().on_response_complete()

    def _wait_for_request(self) -> None:
        if self._silent is not None:
            self._silent.cancel()
        self._since = self.loop.time()
        self._silent = self.loop.call_later(HEADING, self._end_silence)

    def _end_silence(self) -> None:
        if self.is_silent and self.transport.get_protocol() is self:  # otherwise it is a websocket
            self._silent = self.loop.call_later(STALLED, self.transport.abort)
            self.transport.close()  # once the client has taken the rest of its answer

    def pause_writing(self) -> None:
        """Wait for the client to take what was sent, for a limited time."""
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLED, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the timer and continue."""
        if self._stalled is not None:
            self._stalled.cancel()
        super().resume_writing()


# -- whether uvicorn still calls these methods ---------------------------------------------------


def self_test() -> PrivatePart:
    """Return whether connections that are silent, or take nothing, are cut off."""
    return examine("uvicorn", "an end to silent connections", _answer_one, guards=True)


def _answer_one() -> None:
    """Answer one request of a client that does not exist, and check that each step is timed."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(_talk())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run)  # there may be an event loop in this one
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


async def _talk() -> None:
    answered = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        answered.set()

    config = uvicorn.Config(app, http=Connection, log_config=None)
    config.load()
    state = ServerState()
    connection: Any = Connection(config, state, {})
    transport = _Transport()
    transport.set_protocol(connection)
    connection.connection_made(transport)
    first = connection._silent
    _check(first is not None and connection.is_silent, "a connection that is made")
    _check(connection in state.connections, "the list of connections")
    connection.data_received(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")
    _check(not connection.is_silent, "a request that has come")
    await asyncio.wait_for(answered.wait(), 10.0)
    _check(connection._silent is not first and connection.is_silent, "an answer that is sent")
    connection.pause_writing()
    _check(connection._stalled is not None, "a client that takes nothing")
    connection.resume_writing()
    connection.connection_lost(None)
    _check(connection._silent.cancelled(), "a connection that is lost")


def _check(noticed: bool, what: str) -> None:
    if not noticed:
        raise ValueError(f"our connection does not notice {what}")


class _Transport(asyncio.Transport):
    """A transport with no client at its other end."""

    def __init__(self) -> None:
        super().__init__()
        self._protocol: Any = None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def write(self, data: object) -> None:
        """Ignore what is sent."""

    def close(self) -> None:
        """Do nothing: nothing is open."""

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Do nothing: nothing arrives."""

    def resume_reading(self) -> None:
        """Do nothing: nothing arrives."""
