"""What a device under test flies with: an axis that does not turn, a detector without frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from event_model import compose_stream_resource

from offbragg.sweep import Sweep


class _StandIn:
    """Does nothing in a sweep but take its time.

    Parameters
    ----------
    name
        Of the device.
    """

    parent = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[str] = []
        """What plans have asked of it, in order."""
        self._over = threading.Event()

    def stage(self) -> list[Any]:
        """Take note."""
        self.asked.append("stage")
        return [self]

    def unstage(self) -> list[Any]:
        """End a sweep that is still going on."""
        self.asked.append("unstage")
        self._over.set()
        return [self]

    def prepare(self, sweep: Sweep) -> Any:
        """Take note of a sweep."""
        self.asked.append("prepare")
        self._sweep = sweep
        self._over = threading.Event()
        return self._done()

    def kickoff(self) -> Any:
        """Begin."""
        self.asked.append("kickoff")
        self._began = time.monotonic()
        return self._done()

    def complete(self) -> Any:
        """Return a status that is done after the time of the sweep."""
        from ophyd.status import Status

        self.asked.append("complete")
        status, over = Status(self), self._over
        left = self._began + self._sweep.duration - time.monotonic()

        def wait() -> None:
            over.wait(max(left, 0.0))
            status.set_finished()

        threading.Thread(target=wait, daemon=True).start()
        return status

    def _done(self) -> Any:
        from ophyd.status import Status

        status = Status(self)
        status.set_finished()
        return status


class StandInAxis(_StandIn):
    """An axis that takes the time of a sweep and does not turn."""

    position = 0.0


class StandInDetector(_StandIn):
    """A detector whose frames are due and whose files never come."""

    def prepare(self, sweep: Sweep) -> Any:
        """Begin at the first frame again."""
        self._collected = 0
        self._compose: Any = None
        return super().prepare(sweep)

    def describe_collect(self) -> dict[str, Any]:
        """Describe one frame."""
        return {
            f"{self.name}_image": {
                "source": "stand-in",
                "dtype": "array",
                "dtype_numpy": "<i4",
                "shape": [1, 1],
                "external": "STREAM:",
            }
        }

    def get_index(self) -> int:
        """Return how many frames are due."""
        passed = (time.monotonic() - self._began) / self._sweep.period
        return min(int(passed), self._sweep.n_frames)

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, Any]]:
        """Emit where frames would be, once, and which are due."""
        if self._compose is None:
            bundle = compose_stream_resource(
                mimetype="multipart/related;type=image/x-cbf",
                uri="file://localhost/nowhere/",
                data_key=f"{self.name}_image",
                parameters={"template": "x_{:05d}.cbf", "chunk_shape": [1]},
            )
            self._compose = bundle.compose_stream_datum
            yield "stream_resource", bundle.stream_resource_doc
        stop = self.get_index() if index is None else index
        if stop > self._collected:
            datum = self._compose({"start": self._collected, "stop": stop})
            self._collected = stop
            yield "stream_datum", datum
