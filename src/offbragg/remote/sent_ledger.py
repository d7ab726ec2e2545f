"""The ledger of a run as the server sends it."""

from __future__ import annotations

import html
import io
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.ledger import FrameStatus, Ledger, describe_problems

_COLOURS = {
    FrameStatus.STORED: "#0072b2", FrameStatus.MISSING: "#d55e00",
    FrameStatus.REJECTED: "#cc79a7", FrameStatus.PENDING: "#cccccc",
}  # fmt: skip
_TOP = {FrameStatus.STORED: 10, FrameStatus.MISSING: 0, FrameStatus.REJECTED: 4}  # of a bar of 22
_SHOWN = 20  # lines of problems


@dataclass(frozen=True, slots=True)
class SentLedger(Ledger):
    """What became of every expected frame of a run, when it was asked for.

    Parameters
    ----------
    statuses, reasons
        As of `offbragg.ledger.Ledger`.
    axis
        What was rotated.
    first, step
        Angle of frame 0 and from one frame to the next, as commanded, degree; NaN if not known.
    panel
        Pixels of a frame along slow and fast; (0, 0) if not known.
    complete
        Whether no frame is pending any more.
    run
        Its uid.
    """

    axis: str = ""
    first: float = float("nan")
    step: float = float("nan")
    panel: tuple[int, int] = (0, 0)
    complete: bool = False
    run: str = ""

    @classmethod
    def read(cls, answer: Mapping[str, Any], run: str) -> SentLedger:
        """Read the answer of ``/runs/UID/ledger``."""
        statuses = list(
            itertools.chain.from_iterable([word] * count for word, count in answer["status"])
        )
        reasons = [""] * len(statuses)
        for number, reason in (answer.get("reasons") or {}).items():
            reasons[int(number)] = str(reason)
        angles = answer.get("angles") or (None, None)
        first, step = (float("nan") if x is None else float(x) for x in angles[:2])
        slow, fast = answer.get("panel") or (0, 0)
        known = Ledger.of(statuses, reasons)
        return cls(
            known.statuses, known.reasons, str(answer.get("axis") or ""), first, step,
            (int(slow), int(fast)), bool(answer.get("complete")), run,
        )  # fmt: skip

    @property
    def angles(self) -> NDArray[np.float64]:
        """Angle of each frame, as commanded, degree."""
        return self.first + self.step * np.arange(self.n_frames, dtype=np.float64)

    def __str__(self) -> str:
        counts = ", ".join(f"{n} {word}" for word, n in self.counts().items() if n)
        lines = [f"run {self.run[:8]}: {self.n_frames} frames: {counts or 'none'}"]
        return "\n".join([*lines, *describe_problems(self.problems())[:_SHOWN]])

    def __repr__(self) -> str:
        return f"<{str(self).partition(chr(10))[0]}>"

    def _repr_html_(self) -> str:
        """Return a strip with one bar a frame, and the reasons."""
        count = max(self.n_frames, 1)
        bars = [
            f'<rect x="{at}" width="{size}" y="{(top := _TOP.get(status, 19))}" '
            f'height="{22 - top}" fill="{_COLOURS[status]}"/>'
            for at, size, status in self._stretches()
        ]
        first, *problems = str(self).splitlines()
        listed = "".join(f"<li>{html.escape(line)}</li>" for line in problems)
        return (
            f"<div>{html.escape(first)}<br>"
            f'<svg viewBox="0 0 {count} 22" preserveAspectRatio="none" width="600" height="22" '
            f'role="img" aria-label="{html.escape(first)}">{"".join(bars)}</svg>'
            f"<ul>{listed}</ul></div>"
        )

    def _repr_png_(self) -> bytes | None:
        """Return the strip as a picture; None where matplotlib is not installed."""
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError:
            return None
        figure = Figure(figsize=(7.0, 1.2), layout="constrained")
        FigureCanvasAgg(figure)
        panel: Any = figure.add_subplot()
        for at, size, status in self._stretches():
            top = 22 - _TOP.get(status, 19)
            panel.bar(at, top, width=size, align="edge", color=_COLOURS[status])
        panel.set(xlim=(0, max(self.n_frames, 1)), xlabel="frame", yticks=[])
        panel.set_title(str(self).partition("\n")[0], fontsize=9)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=100)
        return out.getvalue()

    def _stretches(self) -> list[tuple[int, int, FrameStatus]]:
        """Return first frame, number of frames and status of successive frames that are alike."""
        at, found = 0, list[tuple[int, int, FrameStatus]]()
        for status, alike in itertools.groupby(self.statuses):
            size = len(list(alike))
            found.append((at, size, status))
            at += size
        return found
