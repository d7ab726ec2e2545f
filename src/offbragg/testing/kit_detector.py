"""Tests that whoever makes a detector inherits."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from offbragg.files import read_frame
from offbragg.files.frame_files import FRAME_SEQUENCES, FrameFiles
from offbragg.plans import rotation_scan
from offbragg.protocols import Detector
from offbragg.sweep import Sweep
from offbragg.testing.kit import Documents, FlightTests


class DetectorTests(FlightTests):
    """Tests of a detector."""

    role = Detector

    @pytest.fixture
    def detector(self, device: object) -> Any:
        """Return the device under test."""
        return device

    def test_its_indices_are_contiguous_and_complete(self, measured: Documents) -> None:
        """Every expected frame is announced once, also one whose file never came."""
        resource = self._resource(measured)
        ranges = [
            (doc["indices"]["start"], doc["indices"]["stop"])
            for doc in measured.of("stream_datum")
            if doc["stream_resource"] == resource["uid"]
        ]

        assert ranges
        assert ranges[0][0] == 0
        assert ranges[-1][1] == self.sweep.n_frames
        assert all(before[1] == after[0] for before, after in pairwise(ranges))
        for doc in measured.of("stream_datum"):
            expected = {key: doc["indices"][key] + 1 for key in ("start", "stop")}
            assert doc["seq_nums"] == expected

    def test_its_frames_are_files_that_are_stacked(self, measured: Documents) -> None:
        """Each frame has a file of its own, which holds what the descriptor says."""
        resource = self._resource(measured)
        (descriptor,) = [doc for doc in measured.of("descriptor") if doc["name"] == "primary"]
        shape = descriptor["data_keys"][resource["data_key"]]["shape"][-2:]
        files = FrameFiles(resource)

        for number in range(self.sweep.n_frames):
            frame = read_frame(files.path(number), number=number)
            assert list(frame.shape) == list(shape)

    def test_two_sweeps_share_no_file(
        self, measured: Documents, kit_run_engine: Any, scan: Callable[[Sweep], Any]
    ) -> None:
        """A sweep never writes over the frames of another."""
        from offbragg.testing.kit import documents_of

        with documents_of(kit_run_engine) as documents:
            kit_run_engine(scan(self.sweep))

        first, second = (FrameFiles(self._resource(each)) for each in (measured, documents))
        assert first.path(0) != second.path(0)

    @pytest.fixture
    def scan(self, device: object, axis: object) -> Callable[[Sweep], Any]:
        """Return a plan of one sweep."""
        return lambda sweep: rotation_scan(device, axis, sweep)

    @staticmethod
    def _resource(documents: Documents) -> dict[str, Any]:
        frames = [doc for doc in documents.of("stream_resource") if _is_stacked(doc)]
        assert len(frames) == 1, (
            "there must be one stream resource of frame files that are stacked "
            f"({', '.join(FRAME_SEQUENCES)}); there are "
            f"{[doc['mimetype'] for doc in documents.of('stream_resource')]}"
        )
        return frames[0]


def _is_stacked(resource: dict[str, Any]) -> bool:
    return resource["mimetype"] in FRAME_SEQUENCES
