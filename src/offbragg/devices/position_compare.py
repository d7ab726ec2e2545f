"""A unit that gives pulses where an axis is, so that frames begin at their angles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ophyd import Component as Cpt
from ophyd import EpicsSignal, EpicsSignalRO, Kind
from ophyd.status import Status

from offbragg.devices.background import finish, in_background, put, verify
from offbragg.devices.frame_column import FrameColumn
from offbragg.errors import SweepError
from offbragg.sweep import Sweep

OUT_OF_REACH = 1e6  # degree, where no axis comes: the position compare gives no pulse


class PositionCompare(FrameColumn):
    """A unit that gives pulses where the axis is, and remembers where it gave them.

    It triggers the detector in its modes "ext_trigger" and "mult_trigger", so that a frame begins
    at its angle and not at its time. It flies beside the detector: disarmed when staged, armed at
    kickoff, which has to come before the axis moves. Its event pages have one row per frame:
    ``<name>_frame`` (number, from 0) and ``<name>_angle`` (middle of the frame, degree).

    Parameters
    ----------
    prefix
        Of its records: axis, first position, step, and the waveform of positions.
    patience
        How long to wait for the last positions after the sweep's time is over, s. Frames that
        have none then keep their commanded angle: that is not a reason to fail a sweep.
    sigma
        Standard uncertainty of its positions, degree, for the column ``angle_sigma``; without it
        that column is NaN.
    """

    gives_pulses = True
    """Whether a detector that waits for pulses can be triggered by it."""

    axis = Cpt(EpicsSignal, "compare_axis", string=True, kind=Kind.config)
    first = Cpt(EpicsSignal, "compare_start", kind=Kind.config)
    step = Cpt(EpicsSignal, "compare_step", kind=Kind.config)
    angles = Cpt(EpicsSignalRO, "angles", auto_monitor=True, kind=Kind.omitted)

    column, units = "angle", "degree"
    done, things = "read", "angles"

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str,
        patience: float = 2.0,
        sigma: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(prefix, name=name, patience=patience, **kwargs)
        self.sigma = sigma
        self._read: NDArray[np.float64] = np.empty(0)

    @property
    def per_frame(self) -> dict[str, dict[str, Any]]:
        """The per-frame column that this device fills, for the start document."""
        return {
            "angle": {
                "key": f"{self.name}_angle", "by": f"{self.name}_frame", "units": "degree",
                "how": "position compare", **({"sigma": self.sigma} if self.sigma else {}),
            }
        }  # fmt: skip

    def check(self, sweep: Sweep) -> None:
        """Refuse a sweep of an axis that the unit does not look at; nothing is written.

        Raises
        ------
        SweepError
            With the axes that there are.
        """
        labels: Any = self.axis.enum_strs
        axes = [str(label) for label in labels or ()]
        if axes and sweep.axis not in axes:
            raise SweepError(
                f"{self.name} cannot give pulses along {sweep.axis}: {self.axis.pvname} knows "
                f"{', '.join(axes)}"
            )

    def stage(self) -> list[object]:
        """Stop giving pulses, wherever the axis goes on its way to the start."""
        self._disarm()
        return super().stage()

    def _disarm(self) -> None:
        put(self.first, OUT_OF_REACH)

    def prepare(self, sweep: Sweep) -> Status:
        """Choose the axis."""
        self.check(sweep)
        self._sweep = sweep
        self._collected = 0
        self._flight = None
        return in_background(self, self._set_up, sweep)

    def _set_up(self, sweep: Sweep) -> None:
        self._disarm()
        put(self.axis, sweep.axis)
        put(self.step, sweep.step)
        verify(self.step, sweep.step)

    def kickoff(self) -> Status:
        """Arm: a pulse at the start of the sweep, and one at each step."""
        sweep, _ = self._begin()
        self._read = np.empty(0)
        # only what comes from now on belongs to this sweep
        self.angles.subscribe(self._on_angles, run=False)
        return in_background(self, self._arm, sweep)

    def _arm(self, sweep: Sweep) -> None:
        put(self.first, sweep.start)
        verify(self.first, sweep.start)

    def _on_angles(self, value: object = None, **_: object) -> None:
        self._read = np.atleast_1d(np.asarray(value, dtype=float))

    @property
    def values(self) -> EpicsSignalRO:
        """The record of the positions."""
        return self.angles

    def available(self) -> int:
        """Return the number of frames whose angle has been read."""
        return len(self._read)

    def collect_pages(self) -> Iterator[dict[str, Any]]:
        """Return the frames whose angle was read since the last call, as one event page."""
        sweep, read = self._sweep, self._read
        if sweep is None:
            return
        begins = read[self._collected : sweep.n_frames]  # read where each frame began
        if begins.size:
            yield self._page(begins + 0.5 * sweep.step)

    def stop(self, *, success: bool = False) -> None:
        """Stop giving pulses; what was read stays."""
        self._done.set()
        self.angles.clear_sub(self._on_angles)
        if self._flight is not None and not self._flight.done:
            self.first.put(OUT_OF_REACH)
            finish(self._flight)

    def unstage(self) -> list[object]:
        """Leave it disarmed."""
        self.stop(success=True)
        self._disarm()
        return super().unstage()
