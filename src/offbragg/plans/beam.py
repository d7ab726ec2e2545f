"""While there is no beam: a plan that has a permit waits, and one that has none is suspended."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.preprocessors import finalize_wrapper, plan_mutator
from bluesky.suspenders import SuspenderBase
from bluesky.utils import Msg, MsgGenerator

from offbragg.errors import ConfigError, DeviceError
from offbragg.plans.messages import HANDLES_BEAM_LOSS, ask
from offbragg.private_parts import PrivatePart, examine
from offbragg.protocols import Opens, meets

log = logging.getLogger(__name__)


def wait_for_beam(
    permit: Any, *, shutter: Any = None, timeout: float = 86400.0, interval: float = 0.5
) -> MsgGenerator[None]:
    """Wait until there is beam, with the shutter closed and everything else as it stands.

    Parameters
    ----------
    permit
        Whose ``ok()`` says whether there is beam; None is beam always.
    shutter
        Closed while there is none.
    timeout
        s.
    interval
        Between two looks, s.

    Raises
    ------
    DeviceError
        If there is no beam after ``timeout`` seconds.
    """
    if permit is None or permit.ok():
        return
    log.warning("no beam; waiting for it, at most %g s", timeout)
    if shutter is not None:
        yield from bps.abs_set(shutter, "closed", wait=True)
    deadline = time.monotonic() + timeout
    while not permit.ok():
        if time.monotonic() > deadline:
            raise DeviceError(
                f"no beam for {timeout:g} s\n"
                "Resume the series when it is back, or give a longer beam_timeout."
            )
        yield from bps.checkpoint()
        yield from bps.sleep(interval)
    log.info("beam is back")


def handles_beam_loss(plan: MsgGenerator[Any]) -> MsgGenerator[Any]:
    """Run a plan that looks after the beam itself: it is not suspended."""

    def inner() -> MsgGenerator[Any]:
        yield from ask(HANDLES_BEAM_LOSS, begins=True)
        return (yield from plan)

    return (yield from finalize_wrapper(inner(), lambda: ask(HANDLES_BEAM_LOSS, begins=False)))


class BeamSuspender(SuspenderBase):
    """Suspend plans while a signal, as the ring's current, is too low.

    What cannot be repeated is not cut: a sweep on its way, or any other part of a plan that is not
    rewindable, goes on to its end, and the plan is held before its next message. A plan that looks
    after the beam itself (`handles_beam_loss`) is left alone. A temperature that was asked for is
    kept.

    Parameters
    ----------
    signal
        What to look at.
    below
        Lower limit of a beam, in the signal's units.
    resume
        From here on there is beam again; ``below`` if not given.
    wait
        Time with beam before a plan goes on, s.
    shutter
        Closed meanwhile; opened again if it was open.
    """

    def __init__(
        self,
        signal: Any,
        below: float,
        *,
        resume: float | None = None,
        wait: float = 0.0,
        shutter: Any = None,
    ) -> None:
        if resume is not None and resume < below:
            raise ConfigError(
                f"resume {resume:g} is less than below {below:g}: a plan would go on without beam"
            )
        super().__init__(
            signal,
            sleep=wait,  # type: ignore[reportArgumentType]
            pre_plan=self._close,
            post_plan=self._open_again,
            tripped_message=f"{signal.name} is below {below:g}",
        )
        self.below = below
        self.resume = below if resume is None else resume
        self.shutter = shutter
        self._was_open = False
        self._closed = False
        self._sweeping = False
        self._left_alone = False

    def __repr__(self) -> str:
        return f"BeamSuspender({self._sig.name}, below={self.below:g}, resume={self.resume:g})"

    def _get_justification(self) -> str:
        return self._tripped_message if self.tripped else ""

    def _should_suspend(self, value: Any) -> bool:
        return value is None or not float(value) >= self.below  # NaN: there is no beam

    def _should_resume(self, value: Any) -> bool:
        return value is not None and float(value) >= self.resume

    def __call__(self, value: object, **_: object) -> None:
        """Take a new value, in whatever thread; it is judged where plans run."""
        RE = self.RE
        if RE is not None:
            RE.loop.call_soon_threadsafe(self._judge, value)

    def _judge(self, value: object) -> None:
        if self._should_suspend(value) and (self._sweeping or self._left_alone):
            with self._lock:
                self._tripped = True  # the plan is held at its next message
            return
        if self._should_suspend(value) and not self._tripped:
            self._look_at_shutter()  # bluesky pauses it before our plan is asked
        super().__call__(value)

    @property
    def _is_due(self) -> bool:
        """Whether a plan has to be held that was not to be cut when the beam was lost."""
        return self._tripped and self._ev is None and not (self._sweeping or self._left_alone)

    def preprocessor(self, plan: MsgGenerator[Any]) -> MsgGenerator[Any]:
        """Follow a plan: it knows when it is not to be cut. For ``RE.preprocessors``."""

        def watch(msg: Msg) -> tuple[Any, Any]:
            if msg.command == "rewindable" and msg.args[0] is not None:
                self._sweeping = not msg.args[0]
            elif msg.command == HANDLES_BEAM_LOSS:
                self._left_alone = msg.kwargs["begins"]
            elif self._is_due:
                return self._hold(msg), None
            return None, None

        def whole() -> MsgGenerator[Any]:
            self._sweeping = self._left_alone = self._closed = False
            try:
                return (yield from plan_mutator(plan, watch))
            finally:
                self._sweeping = self._left_alone = False

        return whole()

    def _hold(self, msg: Msg) -> Iterator[Msg]:
        futures, why = self.get_futures()
        if futures:
            log.warning("%s: the plan waits for beam", why)
            self._look_at_shutter()
            yield from self._close()
            yield Msg("wait_for", None, futures)
            yield from self._open_again()
            log.info("beam is back")
        yield msg

    def _look_at_shutter(self) -> None:
        if not self._closed:  # in a second loss it is closed by us
            self._was_open = meets(self.shutter, Opens) and self.shutter.is_open

    def _close(self) -> MsgGenerator[None]:
        self._closed = True
        if self.shutter is not None:
            yield from bps.abs_set(self.shutter, "closed", wait=True)

    def _open_again(self) -> MsgGenerator[None]:
        if self._was_open:
            yield from bps.abs_set(self.shutter, "open", wait=True)
        self._closed = False


def self_test() -> PrivatePart:
    """Return whether plans are suspended, and held, by what we make of bluesky's suspender."""
    return examine("bluesky", "plans wait while there is no beam", _lose_beam, guards=True)


def _lose_beam() -> None:
    """Lose the beam in a RunEngine that is not there, and see that its plan is suspended."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(_suspend())
        except Exception as error:
            failed.append(error)

    losing = threading.Thread(target=run)  # there may be a loop in this one
    losing.start()
    losing.join()
    if failed:
        raise failed[0]


async def _suspend() -> None:
    asked: list[Any] = []
    loop = asyncio.get_running_loop()
    signal = SimpleNamespace(name="ring", subscribe=lambda called, **_: asked.append(called))
    RE = SimpleNamespace(
        loop=loop, _loop=loop, state=SimpleNamespace(is_running=True),
        request_suspend=lambda *args, **_: asked.append("suspended"),
    )  # fmt: skip
    suspender = BeamSuspender(signal, 10.0)
    suspender.install(RE)
    if asked != [suspender]:
        raise ValueError("it does not follow its signal")
    suspender._sweeping = True
    suspender(1.0)
    await asyncio.sleep(0)
    if not (suspender.tripped and suspender._is_due is False and asked == [suspender]):
        raise ValueError("a sweep on its way is cut")
    suspender._sweeping = False
    if not (suspender._is_due and suspender.get_futures()[0]):
        raise ValueError("the plan is not held after the sweep")
    suspender = BeamSuspender(signal, 10.0)
    suspender.install(RE)
    suspender(1.0)
    for _ in range(3):  # each hands on to the loop
        await asyncio.sleep(0)
    if asked[-1] != "suspended":
        raise ValueError("no plan is suspended")
