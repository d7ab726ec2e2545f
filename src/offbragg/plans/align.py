"""Looking while centring: no run, no frames that are kept."""

# no "from __future__ import annotations": the queueserver reads the annotations as they are
import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import Flyable, Movable
from bluesky.utils import FailedStatus, MsgGenerator

from offbragg.errors import OffbraggError, SweepError
from offbragg.plans.defaults import with_defaults
from offbragg.protocols import Aligns, as_a


@with_defaults("detector", still=True)
def align(
    detector: Flyable | None = None,
    seconds: float = 300.0,
    exposure: float = 0.5,
    *,
    shutter: Movable | None = None,
) -> MsgGenerator[str]:
    """Expose again and again into one file, to look while centring; returns the file's name.

    Nothing is recorded. When the time is over, or the plan is paused or aborted, the shutter is
    closed and the detector left idle, in the trigger mode that it was in; a plan that is resumed
    looks again.

    Parameters
    ----------
    detector
        Has an ``alignment`` that is set to a number of seconds, as a Pilatus has.
    seconds
        How long to look.
    exposure
        Of each frame, s.
    shutter
        Set to "open" while looking and to "closed" after it, if given.
    """
    looker = as_a(detector, Aligns)
    alignment = looker.alignment if looker else None
    if alignment is None:
        raise SweepError(
            f"detector is {getattr(detector, 'name', repr(detector))}, which has no 'alignment'\n"
            "Give the detector itself, and one that can look (see explanations/plug-points)."
        )
    alignment.check(seconds, exposure=exposure)

    def look() -> MsgGenerator[str]:
        if shutter is not None:
            yield from bps.abs_set(shutter, "open", wait=True)
        try:
            yield from bps.abs_set(alignment, seconds, exposure=exposure, wait=True)
        except FailedStatus as error:
            if isinstance(error.__cause__, OffbraggError):
                raise error.__cause__ from None
            raise
        return str(alignment.file)

    def end() -> MsgGenerator[None]:
        if shutter is not None:
            yield from bps.abs_set(shutter, "closed", wait=True)
        yield from bps.abs_set(alignment, 0, wait=True)

    return (yield from bpp.finalize_wrapper(look(), end))
