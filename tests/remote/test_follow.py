"""Following is a question that is asked again: what comes of answers, without a server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from offbragg.ledger import FrameStatus
from offbragg.remote import follow
from offbragg.remote.follow import Follower
from offbragg.remote.frames import Frame, Frames, FramesTogether
from offbragg.remote.link import CatalogAway, Link
from offbragg.remote.run import Run

LETTERS = {"s": "stored", "m": "missing", "r": "rejected", ".": "pending"}


class Answered:
    """A run with a list of answers: what became of its frames; None where the catalog is away."""

    def __init__(self, uid: str, *answers: str | None, is_open: bool = True) -> None:
        self.uid, self._answers, self._is_open = uid, list(answers), is_open

    def decided(self, given: dict[int, FrameStatus]) -> tuple[list[Frame], bool]:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer is None:
            raise CatalogAway("the catalog is away")
        frames: Any = [
            Frame(None, index, LETTERS[letter], "", float(index), self)  # type: ignore[arg-type]
            for index, letter in enumerate(answer)
            if letter != "." and (index not in given or (letter == "s" != given[index][0]))
        ]
        return frames, "." not in answer

    def is_open(self) -> bool:
        return self._is_open


@pytest.fixture
def follower(monkeypatch: pytest.MonkeyPatch) -> Iterator[Follower]:
    monkeypatch.setattr(follow, "_ASK", 0.01)
    monkeypatch.setattr(follow, "_PATIENCE", 0.1)
    with Follower(Link("http://127.0.0.1:1", "key"), timeout=5.0) as made:
        made._news._not_before = time.monotonic() + 60  # there is no websocket
        yield made


def followed(frames: Iterator[Frame]) -> str:
    return " ".join(f"{frame.index}{frame.status[0]}" for frame in frames)


def test_each_frame_comes_once_in_the_order_in_which_it_is_decided(follower):
    run = Answered("a", "....", "s...", None, None, "s.s.", "s.s.", "sms.", "smss")

    assert followed(follower.frames(run)) == "0s 2s 1m 3s"


def test_a_frame_that_is_stored_late_comes_once_more(follower):
    run = Answered("a", "m..", "mr.", "sr.", "srs")

    assert followed(follower.frames(run)) == "0m 1r 0s 2s"


def test_frames_that_came_together_are_read_together():
    counts = np.arange(10 * 4 * 5, dtype=np.int32).reshape(10, 4, 5)
    asked: list[tuple[int, int]] = []

    class Known(Frames):
        def __init__(self) -> None:
            self._panel = (4, 5)

        def between(self, first: int, stop: int, keys: tuple[Any, ...]) -> Any:
            asked.append((first, stop))
            return counts[(slice(first, stop), *keys)]

    together = FramesTogether(Known(), 8)
    frames = [Frame(together, index, "stored", "", 0.0) for index in range(2, 8)]

    for frame in frames:
        np.testing.assert_array_equal(frame[1:3, -1], counts[frame.index, 1:3, -1])
        assert frame.sum(slice(0, 2)) == counts[frame.index, 0:2].sum()

    assert asked == [(2, 8), (2, 8)]  # once for each part of them


def test_a_run_without_a_sweep_has_no_frame_to_wait_for():
    row = {"uid": "a", "n_frames": None}
    run = Run(Link("http://127.0.0.1:1", "key"), row, {"row": row, "start": {"uid": "a"}})

    assert run.decided({}) == ([], True)


def test_a_run_that_ended_with_frames_that_are_pending_is_not_waited_for_for_ever(follower):
    run = Answered("a", "ss..", is_open=False)

    assert followed(follower.frames(run)) == "0s 1s"


def test_a_timeout_ends_what_does_not_go_on(follower):
    follower._timeout = 0.05

    assert followed(follower.frames(Answered("a", "s..."))) == "0s"
    assert list(follower.series(list, lambda: False, "sweeps")) == []


def test_a_run_that_comes_while_the_series_ends_is_not_lost(follower):
    first, second = Answered("a", "ss"), Answered("b", "s.", "sm")
    runs = [[first], [first], [first, second]]
    ended = [False, True, True]

    found = follower.series(
        lambda: runs.pop(0) if len(runs) > 1 else runs[0],
        lambda: ended.pop(0) if len(ended) > 1 else ended[0], "frames",
    )  # fmt: skip

    assert [(frame.run.uid, frame.index) for frame in found] == [("a", 0), ("a", 1)]
    # it had ended before the second one was opened
    runs[:], ended[:] = [[first], [first, second]], [False, True]
    found = follower.series(
        lambda: runs.pop(0) if len(runs) > 1 else runs[0],
        lambda: ended.pop(0) if len(ended) > 1 else ended[0], "sweeps",
    )  # fmt: skip
    assert [run.uid for run in found] == ["a", "b"]
