"""A detector of ophyd-async, as a detector that takes sweeps.

ophyd-async is imported only when such a detector is prepared: offbragg does not require it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from offbragg.errors import DeviceError, SweepError
from offbragg.geometry import Geometry
from offbragg.sweep import Sweep

_STACKED = ("multipart/related;type=image/x-cbf", "multipart/related;type=image/tiff")


class AsyncDetector:
    """Lets a ``StandardDetector`` of ophyd-async take sweeps; it exposes by its own clock.

    ophyd-async prepares a `TriggerInfo`, and offbragg a `Sweep`: this translates. Its angles are as
    commanded, unless a flyer gives them.

    The frames must be **one file each**, CBF or TIFF (``ADWriterFactory.tiff`` of areaDetector):
    `offbragg stack` makes the scan file of them. A sweep whose frames go into an HDF5 file of the
    detector's own fails with its first frame, as no scan file could be made.

    Parameters
    ----------
    detector
        The detector.
    shape
        Rows and columns of a frame.
    frame_format
        "cbf" or "tif".
    facts
        More for ``detector`` of the start document: model, sensor_material, sensor_thickness, mm.
    geometry
        Where its panel stands.
    readout
        Time that it needs between two exposures, s.
    """

    parent = None
    trigger_mode = "internal"

    def __init__(
        self,
        detector: Any,
        *,
        shape: tuple[int, int],
        frame_format: str = "tif",
        facts: Mapping[str, Any] | None = None,
        geometry: Geometry | None = None,
        readout: float = 0.0,
    ) -> None:
        self.detector = detector
        self.geometry = geometry
        self.readout = readout
        self._facts = {
            "model": type(detector).__name__,
            **(facts or {}),
            "name": detector.name,
            "format": frame_format,
            "shape": list(shape),
        }

    @property
    def name(self) -> str:
        """Name of the detector in documents."""
        return str(self.detector.name)

    def hardware(self) -> dict[str, Any]:
        """Return what the detector is, for the start document."""
        return dict(self._facts)

    def check(self, sweep: Sweep) -> None:
        """Refuse a sweep that leaves no time for the readout."""
        if sweep.period < sweep.exposure + self.readout:
            raise SweepError(
                f"period {sweep.period:g} s is shorter than exposure {sweep.exposure:g} s + "
                f"readout {self.readout:g} s of {self.name}"
            )

    def wait_for_connection(self, *, all_signals: bool = True, timeout: float = 10.0) -> None:
        """Connect it, in the event loop of Bluesky, where its signals are used.

        Raises
        ------
        DeviceError
            With what ophyd-async says.
        """
        from bluesky import RunEngine
        from bluesky.run_engine import call_in_bluesky_event_loop

        RunEngine({})  # the loop that all RunEngines share turns from now on
        try:
            call_in_bluesky_event_loop(self.detector.connect(timeout=timeout))
        except Exception as error:
            raise DeviceError(f"{self.name} is not connected within {timeout:g} s\n{error}") from (
                error
            )

    def stage(self) -> Any:
        """Leave it idle, before sweeps."""
        return self.detector.stage()

    def unstage(self) -> Any:
        """Stop exposing and writing."""
        return self.detector.unstage()

    def prepare(self, sweep: Sweep) -> Any:
        """Set it up for the frames of a sweep."""
        from ophyd_async.core import TriggerInfo

        self.check(sweep)
        return self.detector.prepare(
            TriggerInfo(
                number_of_events=sweep.n_frames,
                livetime=sweep.exposure,
                deadtime=sweep.period - sweep.exposure,
            )
        )

    def kickoff(self) -> Any:
        """Begin to expose."""
        return self.detector.kickoff()

    def complete(self) -> Any:
        """Return the status that is done when all frames are written."""
        return self.detector.complete()

    async def describe_collect(self) -> dict[str, Any]:
        """Describe a frame, without the axis of length 1 that ophyd-async puts before it."""
        described = await self.detector.describe_collect()
        return {
            key: {**known, "shape": list(known["shape"][-2:])} for key, known in described.items()
        }

    async def get_index(self) -> int:
        """Return how many frames are written."""
        return int(await self.detector.get_index())

    async def collect_asset_docs(self, index: int | None = None) -> AsyncIterator[Any]:
        """Emit the documents of the frames.

        Raises
        ------
        DeviceError
            If the frames are not files that are stacked.
        """
        async for name, doc in self.detector.collect_asset_docs(index):
            if name == "stream_resource" and doc["mimetype"] not in _STACKED:
                raise DeviceError(
                    f"{self.name} writes {doc['mimetype']}, of which no scan file can be made: "
                    "frames must be files, one each, CBF or TIFF\n"
                    "Let it write TIFF (ADWriterFactory.tiff for an areaDetector)."
                )
            yield name, doc
