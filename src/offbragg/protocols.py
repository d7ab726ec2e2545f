"""What plans ask of devices: each agreement is a protocol.

A device needs no base class and no registration: it meets an agreement by having its members. A
detector, an axis, a flyer, a sample environment, a shutter, an attenuator and a permit are the
*roles*; each has members that it must have. Beside these there are small agreements that a device
may meet as well: plans look for them with `meets`, and do without where they are absent.

Both are checked when devices are built (`offbragg.beamline.agreements`). Attributes are declared as
read-only properties: a plain attribute or an ophyd signal of that name meets them.

All agreements are in one module, although it is long: it is the one page that somebody reads who
brings a device, and explanations/plug-points is written from it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, cast

from offbragg.geometry import Geometry
from offbragg.stack import Stack
from offbragg.sweep import Sweep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bluesky.protocols import Status, StreamAsset, SyncOrAsync, SyncOrAsyncIterator
    from event_model import DataKey, PartialEventPage

Agreed = TypeVar("Agreed")


# -- roles -------------------------------------------------------------------------------------


class Flies(Protocol):
    """Whatever takes part in a sweep: a detector, an axis, a flyer.

    Nothing in it may block for long: what takes time is a status.
    """

    @property
    def name(self) -> str:
        """Name of the device in documents."""
        ...

    def stage(self) -> Status | list[Any]:
        """Make ready for sweeps."""
        ...

    def unstage(self) -> Status | list[Any]:
        """Leave the device idle, whatever happened, also in the middle of a sweep.

        It may be called twice. Bluesky asks neither method of a device that lacks one of them.
        """
        ...

    def prepare(self, sweep: Sweep) -> Status:
        """Set everything up for a sweep; refuse what cannot be measured before anything moves."""
        ...

    def kickoff(self) -> Status:
        """Start. Done when the first exposure may begin; for an axis, when it passes the start."""
        ...

    def complete(self) -> Status:
        """Return the status that is done when the sweep is over.

        A detector is idle then; an axis stands behind the end.
        """
        ...


class Detector(Flies, Protocol):
    """Takes the frames of a sweep, one file each, and emits documents about them.

    The indices of its stream datums are **contiguous and cover every expected frame**, also those
    whose file never came. The detector reports what is due; the stacker decides what became of it.
    A detector that left out the frames it missed would shift all others.

    On the data side the agreement is the MIME type of the stream resource: sequences of CBF
    (``multipart/related;type=image/x-cbf``) and TIFF files (``multipart/related;type=image/tiff``)
    are stacked. Frames in an HDF5 file of the detector's own are not.
    """

    def describe_collect(self) -> SyncOrAsync[dict[str, DataKey]]:
        """Describe one external data key (``"STREAM:"``) with shape and dtype of a frame."""
        ...

    def get_index(self) -> SyncOrAsync[int]:
        """Return how many frames, from the first on, are there or were passed by."""
        ...

    def collect_asset_docs(self, index: int | None = None) -> SyncOrAsyncIterator[StreamAsset]:
        """Emit one ``stream_resource``, then ``stream_datum`` documents as files become due."""
        ...


class Axis(Flies, Protocol):
    """Moves at constant speed through a sweep. Its name is that of ``sweep.axis``."""


class Flyer(Flies, Protocol):
    """Counts or gives pulses, once per frame: a counter, a position compare, a fast shutter."""

    def describe_collect(self) -> SyncOrAsync[dict[str, DataKey]]:
        """Describe the data keys of its stream, which has the flyer's name."""
        ...

    def collect_pages(self) -> Iterator[PartialEventPage]:
        """Return what is new as event pages."""
        ...


class SampleEnvironment(Protocol):
    """Sets what the sample feels: a temperature, a field, a pressure."""

    @property
    def name(self) -> str:
        """Name of the device in documents."""
        ...

    def set(self, value: float) -> Status:
        """Ask for a value. The status is done when the sample has **settled**.

        That is not when the controller first crosses the set point: plans believe the status. One
        that is overtaken by another ``set``, or stopped, fails.
        """
        ...


class Shutter(Protocol):
    """Opens for a sweep and closes after it."""

    @property
    def name(self) -> str:
        """Name of the device in documents."""
        ...

    def set(self, value: str) -> Status:
        """Set to "open" or "closed"; done when it is."""
        ...


class Attenuator(Protocol):
    """Lets a part of the beam pass."""

    @property
    def name(self) -> str:
        """Name of the device in documents."""
        ...

    def set(self, value: float) -> Status:
        """Set the transmission, above 0 to 1."""
        ...


class Permit(Protocol):
    """Whether there is beam: a plan asks before a sweep begins, and records it through one."""

    @property
    def beam(self) -> Any:
        """Signal that is 1 with beam and 0 without; recorded as the stream "permit"."""
        ...

    def ok(self) -> bool:
        """Return whether a sweep may begin. The plan itself opens the shutter."""
        ...


# -- what each may have as well ----------------------------------------------------------------


class ChecksSweep(Protocol):
    """Refuses a sweep before anything moves and before a run is opened."""

    def check(self, sweep: Sweep) -> None:
        """Raise an `OffbraggError` that says what cannot be measured."""
        ...


class ChecksValue(Protocol):
    """Refuses a value before anything moves."""

    def check_value(self, value: float) -> None:
        """Raise an `OffbraggError` that says what is allowed."""
        ...


class Positioned(Protocol):
    """Knows where it stands: an axis of stills, or what is set for now and then set back."""

    @property
    def position(self) -> Any:
        """Where it stands now, in its own unit."""
        ...


class Pausable(Protocol):
    """Knows whether a pause of the RunEngine ended its flight."""

    @property
    def was_paused(self) -> bool:
        """With True, ``RE.resume()`` begins the sweep again."""
        ...


class Connectable(Protocol):
    """Is connected to its records when devices are built."""

    def wait_for_connection(self, *, all_signals: bool, timeout: float) -> None:
        """Wait until it is connected; raise `TimeoutError` after ``timeout`` s."""
        ...


class DescribesHardware(Protocol):
    """Knows what the detector is. Without it no run of a sweep is opened."""

    def hardware(self) -> dict[str, Any]:
        """Return ``detector`` of the start document: name, model, shape, format, sensor."""
        ...


class HasGeometry(Protocol):
    """Knows where its panel stands."""

    @property
    def geometry(self) -> Geometry | None:
        """Instrument as it stands, which goes into the start document."""
        ...


class NamesFrames(Protocol):
    """Names frame files as it is asked to."""

    @property
    def file_stem(self) -> Any:
        """Signal that is set to the beginning of the run's uid before each sweep."""
        ...


class TakesComment(Protocol):
    """Writes a comment into the frames' headers."""

    @property
    def comment(self) -> Any:
        """Signal that is set to run and sample when the detector is staged."""
        ...


class SizesFrames(Protocol):
    """Knows how large its files are."""

    def frame_bytes(self) -> int:
        """Return the size of one frame file at most, bytes."""
        ...


class Recovers(Protocol):
    """Can be stopped by a RunEngine that did not arm it."""

    def recover(self) -> Any:
        """Leave the detector idle, which a RunEngine that was killed left armed; may block."""
        ...


class Aligns(Protocol):
    """Can look without recording, for `align`."""

    @property
    def alignment(self) -> Any:
        """Device with ``check(seconds, exposure=)``, ``set(seconds, exposure=)`` and ``file``."""
        ...


class Triggered(Protocol):
    """May wait for pulses instead of exposing on its own."""

    @property
    def trigger_mode(self) -> str:
        """Mode of a sweep that turns: "internal", or another if pulses begin its exposures.

        Whoever gives the pulses says the angles then.
        """
        ...


class TriggeredPerSweep(Protocol):
    """Has a trigger that depends on the sweep."""

    def trigger_of(self, sweep: Sweep) -> str:
        """Return the mode for one sweep, as "internal" for stills."""
        ...


class PulsedElsewhere(Protocol):
    """May get its pulses from something that offbragg does not know.

    Such a detector is prepared once the axis stands before the start, where no pulse comes. Without
    this a sweep that waits for pulses is refused unless a flyer gives them.
    """

    @property
    def pulsed_elsewhere(self) -> bool:
        """Whether it does."""
        ...


class MeasuresStart(Protocol):
    """Knows when the first exposure began. With an axis that reads back, angles are measured.

    A detector that waits for pulses knows it once the first one came.
    """

    @property
    def clock(self) -> Any:
        """An `offbragg.devices.clock.IocClock` of what stamps the exposure, measured by prepare."""
        ...

    @property
    def exposure_started(self) -> float | None:
        """When the first exposure began, POSIX s by that clock; known when kickoff is done."""
        ...

    @property
    def start_sigma(self) -> float:
        """Standard uncertainty of that, s."""
        ...

    @property
    def began_at(self) -> float:
        """The same by this host's clock, s, as well as it is known."""
        ...

    def measure_clock(self) -> Any:
        """Measure the clock once more and return it."""
        ...


class ReadsBack(Protocol):
    """Knows where it was, and when. With a detector that measures its start, angles are measured.

    Otherwise angles are as commanded, and each run says so, unless a flyer fills the column
    "angle".
    """

    @property
    def clock(self) -> Any:
        """An `offbragg.devices.clock.IocClock` of the IOC that stamps the read-backs."""
        ...

    @property
    def read_backs(self) -> Sequence[tuple[float, float]]:
        """Time and angle of each read-back of this flight, POSIX s and degree; growing.

        ``prepare`` empties it.
        """
        ...

    @property
    def angle_key(self) -> str:
        """Data key and stream of the read-backs."""
        ...

    @property
    def angle_source(self) -> str:
        """Either "read-back" or "encoder"."""
        ...

    @property
    def at_speed(self) -> tuple[float, float]:
        """Time before and after the sweep for which it surely turns at constant speed, s."""
        ...

    def measure_clock(self) -> Any:
        """Measure the clock once more and return it."""
        ...

    def was_late(self, seconds: float) -> None:
        """Take note of how late the first exposure began; the axis can start earlier next time."""
        ...

    def describe_collect(self) -> SyncOrAsync[dict[str, DataKey]]:
        """Describe the read-backs."""
        ...

    def collect_pages(self) -> Iterator[PartialEventPage]:
        """Return new read-backs as event pages."""
        ...


class RunsUp(Protocol):
    """Accelerates before the start of a sweep."""

    def run_up(self, sweep: Sweep) -> float:
        """Return the angle at which it begins, where a series sends the axis meanwhile, degree."""
        ...


class PlansFlight(Protocol):
    """Knows how long a sweep takes with acceleration, for `estimate`."""

    def plan_flight(self, sweep: Sweep) -> Any:
        """Return an object with the ``duration`` of the whole flight, s."""
        ...


class KeepsSpeed(Protocol):
    """Has a speed of its own, which a sweep changes for a while."""

    @property
    def usual_speed(self) -> float | None:
        """Speed that it has between sweeps, degree/s."""
        ...

    def mend_speed(self, usual: float, *, left: float) -> Any:
        """Restore the usual speed if it still has the speed that a killed RunEngine left."""
        ...


class FillsColumns(Protocol):
    """Fills columns of the per-frame table."""

    @property
    def per_frame(self) -> Mapping[str, Mapping[str, Any]]:
        """Data key, join key (``by``) and units for each column, as in the start document."""
        ...


class GivesPulses(Protocol):
    """Arms what triggers the detector. A flyer that fills the column "angle" is taken for one."""

    @property
    def gives_pulses(self) -> bool:
        """Whether it does."""
        ...


class Settles(Protocol):
    """Knows how well the sample has settled."""

    @property
    def settled(self) -> Mapping[str, float] | None:
        """Mean, standard deviation and window of what it saw, for the start document."""
        ...


class DescribesWait(Protocol):
    """Knows in words what it still waits for, for those who look on."""

    @property
    def waits_for(self) -> str:
        """What it waits for, with the numbers; an empty string if for nothing."""
        ...


class NoticesOthers(Protocol):
    """Notices when somebody else changes the set point."""

    def changed_by_others(self) -> str:
        """Return who asked for what, or an empty string."""
        ...


class Opens(Protocol):
    """Knows whether it is open, so that a suspended plan opens it again only if it was."""

    @property
    def is_open(self) -> bool:
        """Whether it is open now."""
        ...


class Attenuates(Protocol):
    """Knows the attenuation that its filters really give."""

    @property
    def attenuation(self) -> float:
        """Beam without filters over beam with them, at least 1."""
        ...


class CountsBeam(Protocol):
    """Judges each frame by the counts of a monitor, where that flies along."""

    @property
    def monitor(self) -> Any:
        """The monitor, or None."""
        ...

    @property
    def fraction(self) -> float:
        """A frame with less than this fraction of the median counts had no beam, 0 to 1."""
        ...


MAY_HAVE: Mapping[type, tuple[type, ...]] = {
    Detector: (
        ChecksSweep, DescribesHardware, HasGeometry, MeasuresStart, Triggered, TriggeredPerSweep,
        PulsedElsewhere, NamesFrames, TakesComment, SizesFrames, Aligns, Recovers, Pausable,
        Connectable,
    ),
    Axis: (
        ChecksSweep, ReadsBack, Positioned, RunsUp, PlansFlight, KeepsSpeed, Pausable, Connectable,
    ),
    Flyer: (ChecksSweep, FillsColumns, GivesPulses, Connectable),
    SampleEnvironment: (ChecksValue, Settles, Positioned, NoticesOthers, Connectable),
    Shutter: (Opens, Connectable),
    Attenuator: (Attenuates, ChecksValue, Positioned, Connectable),
    Permit: (CountsBeam, Connectable),
}  # fmt: skip
"""Which of the small agreements plans look for in which role."""


# -- reduction ---------------------------------------------------------------------------------


class Addable(Protocol):
    """Adds to another of its kind, in any order: parts of a sweep, sweeps, repeats."""

    def __add__(self, other: Self, /) -> Self: ...


class Reduction(Protocol):
    """Turns the frames of a sweep, or some of them, into something that can be added.

    ``reduce(stack[:a]) + reduce(stack[a:])`` must be what ``reduce(stack)`` is.
    """

    def __call__(self, stack: Stack, /) -> Addable:
        """Reduce these frames."""
        ...


# -- questions ---------------------------------------------------------------------------------


def members(protocol: type) -> dict[str, Any]:
    """Return the members of a protocol by name: properties and functions, inherited ones first.

    Examples
    --------
    >>> list(members(Permit))
    ['beam', 'ok']
    """
    found: dict[str, Any] = {}
    for cls in reversed(protocol.__mro__):
        if getattr(cls, "_is_protocol", False) and cls is not Protocol:
            found |= {name: value for name, value in vars(cls).items() if not name.startswith("_")}
    return found


def has(device: object, name: str, *, callable: bool = False) -> bool:
    """Return whether a device has a member; no property is read, so no record either.

    Parameters
    ----------
    device, name
        Which member of what.
    callable
        Whether it is to be a method: then None is none. Otherwise a member may be None for now,
        but for one that a subclass leaves out (as ``records`` of beamline.toml does).
    """
    absent = object()
    found = inspect.getattr_static(device, name, absent)
    if found is absent:  # what a device finds only when it is asked, as ophyd's sub-devices
        return hasattr(device, name)
    if found is not None:
        return True
    if callable:
        return False
    inherited = [vars(cls)[name] for cls in type(device).__mro__ if name in vars(cls)]
    return name in getattr(device, "__dict__", {}) or not any(
        each is not None for each in inherited
    )


def meets(device: object, protocol: type) -> bool:
    """Return whether a device has all members of a protocol."""
    return all(
        has(device, name, callable=not isinstance(member, property))
        for name, member in members(protocol).items()
    )


def as_a(device: object, protocol: type[Agreed]) -> Agreed | None:
    """Return a device as what meets a protocol, for its members; None if it does not."""
    return cast(Agreed, device) if meets(device, protocol) else None
