"""Follow what is being measured: each frame and each sweep once, whatever the connection does.

What has been given is known here, and what there is is asked of the server: a broken connection,
or a server that is started again, delays an answer and changes none. The websocket only says that
it is time to ask.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, Self, TypeVar

from offbragg.certificates import trusted
from offbragg.errors import CatalogError
from offbragg.ledger import FrameStatus
from offbragg.remote.frames import Frame
from offbragg.remote.link import CatalogAway, Link

_log = logging.getLogger(__name__)

_ASK = 1.0  # s between two questions without the websocket
_SOONEST = 0.4  # s between two questions with it
_AGAIN = 30.0  # s until the websocket is tried again
_PATIENCE = 5.0  # s that an ended run is asked for frames that are still pending


class Followed(Protocol):
    """A run, as far as it is followed."""

    @property
    def uid(self) -> str:
        """Of the run."""
        ...

    def is_open(self) -> bool:
        """Ask whether the run has not ended yet."""
        ...

    def decided(self, given: dict[int, FrameStatus]) -> tuple[list[Frame], bool]:
        """Return the frames that were decided since, and whether no more will be."""
        ...


AnyRun = TypeVar("AnyRun", bound=Followed)


class Follower:
    """Waits for what comes; used in a ``with`` statement.

    Parameters
    ----------
    link
        To the server.
    timeout
        Time after which nothing more is waited for, s; None waits for ever.
    """

    def __init__(self, link: Link, *, timeout: float | None = None) -> None:
        self._link = link
        self._timeout = timeout
        self._news = _News(link)
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._news.close()

    def frames(self, run: Followed) -> Iterator[Frame]:
        """Yield each frame of a run when it is decided, until the run has all of them."""
        given: dict[int, FrameStatus] = {}
        ended: float | None = None
        while True:
            found = self.ask(lambda: run.decided(given))
            if found is not None:
                frames, complete = found
                for frame in frames:
                    given[frame.index] = FrameStatus(frame.status)
                    yield frame
                if frames:
                    self.came()
                    ended = None
                    continue  # more may have come meanwhile
                if complete:
                    return
                if self.ask(run.is_open) is False:  # a late frame may still be stored
                    ended = ended or time.monotonic()
                    if time.monotonic() - ended > _PATIENCE:
                        return
            if not self.wait():
                return

    def series(
        self, runs: Callable[[], Iterable[AnyRun]], has_ended: Callable[[], bool], what: str
    ) -> Iterator[Any]:
        """Yield frames, or runs, of a series until it has ended.

        Parameters
        ----------
        runs
            Asks for its runs, the first one first.
        has_ended
            Asks whether no run will be added.
        what
            ``frames`` or ``sweeps``.
        """
        if what not in ("frames", "sweeps"):
            raise CatalogError(f"{what!r} cannot be followed: it is 'frames' or 'sweeps'")
        given: set[str] = set()
        while True:
            last = self.ask(has_ended)  # asked first: a run that comes after it is not lost
            new = [run for run in self.ask(lambda: list(runs())) or () if run.uid not in given]
            for run in new:
                given.add(run.uid)
                self.came()
                if what == "sweeps":
                    yield run
                else:
                    yield from self.frames(run)
            if last and not new:
                return
            if not new and not self.wait():
                return

    def ask(self, question: Callable[[], Any]) -> Any:
        """Return an answer, or None while the catalog is away."""
        try:
            return question()
        except CatalogAway as error:
            _log.info("%s", error)
            self._news.close()
            return None

    def came(self) -> None:
        """Begin the timeout again."""
        self._last = time.monotonic()

    def wait(self) -> bool:
        """Wait for news; return whether the timeout has not passed."""
        left = _ASK
        if self._timeout is not None:
            left = min(left, self._timeout - (time.monotonic() - self._last))
            if left <= 0:
                _log.warning("nothing came for %g s: no longer waited for", self._timeout)
                return False
        self._news.wait(left)
        return True


class _News:
    """Waits until something has changed: by the websocket ``/now/socket``, or for a while."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._socket: Any = None
        self._not_before = 0.0  # when it is tried again

    def wait(self, seconds: float) -> None:
        """Return at the next change, or after some seconds."""
        begun = time.monotonic()
        socket = self._open()
        if socket is None:
            time.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            try:
                socket.recv(timeout=seconds)
                while True:  # the newest is enough
                    socket.recv(timeout=0)
            except TimeoutError:
                pass
            except Exception as error:  # of whatever kind: asking goes on without it
                _log.info("the websocket broke off: %r", error)
                self.close()
        time.sleep(max(0.0, min(_SOONEST, seconds) - (time.monotonic() - begun)))

    def close(self) -> None:
        """Close the websocket; it is opened again after a while."""
        socket, self._socket = self._socket, None
        if socket is not None:
            with contextlib.suppress(Exception):
                socket.close()

    def _open(self) -> Any:
        if self._socket is not None or time.monotonic() < self._not_before:
            return self._socket
        self._not_before = time.monotonic() + _AGAIN
        try:
            from websockets.sync.client import connect
        except ImportError:  # it is not needed
            return None
        proxy = None if self._link.is_local else True
        found = trusted(self._link.address)
        try:
            self._socket = connect(
                self._link.address.replace("http", "ws", 1) + "/now/socket",
                additional_headers=self._link.authorization, proxy=proxy, open_timeout=5.0,
                close_timeout=1.0, ssl=None if isinstance(found, bool) else found,
            )  # fmt: skip
        except Exception as error:
            _log.info("no websocket: %r", error)
        return self._socket
