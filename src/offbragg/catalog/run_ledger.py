"""The ledger of a run as JSON: what became of every expected frame, while it is measured, too."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

from offbragg.files.scan_file import ScanFile
from offbragg.ledger import FrameStatus, Ledger
from offbragg.sweep import Sweep


def ledger_json(scan: ScanFile) -> bytes:
    """Return what became of the frames of a sweep, from its scan file.

    Returns
    -------
    answer
        ``n``; ``status``, run-length encoded, ``[["stored", 120], ["missing", 1], …]``; ``reasons``
        and ``files`` of the frames that are missing or rejected, by index; ``counts``;
        ``complete``; ``axis`` and ``angles``, that of the first frame and the step, degree;
        ``last``, the index of the last stored frame, or null; ``panel``, rows and columns.
    """
    ledger = scan.ledger
    problems = ledger.problems()
    sources = scan.text_column("source") if problems else []
    answer = _described(ledger, scan.sweep) | {
        "reasons": {str(i): reason for i, _, reason in problems},
        "files": {str(i): sources[i] for i, _, _ in problems if sources[i]},
        "complete": scan.complete,
        "panel": list(scan.shape),
    }
    return json.dumps(answer).encode()


def planned_ledger_json(start: Mapping[str, Any]) -> bytes:
    """Return the ledger of a sweep that has no scan file yet: every frame is pending.

    Parameters
    ----------
    start
        Its start document.

    Raises
    ------
    SweepError, KeyError, TypeError
        If it has no sweep.
    """
    sweep = Sweep.from_dict(start["sweep"])
    ledger = Ledger.of(["pending"] * sweep.n_frames)
    panel: Mapping[str, Any] = (start.get("geometry") or {}).get("panel") or {}
    return json.dumps(_described(ledger, sweep) | {"panel": panel.get("shape")}).encode()


def _described(ledger: Ledger, sweep: Sweep) -> dict[str, Any]:
    runs = itertools.groupby(ledger.statuses)
    stored = [i for i, word in enumerate(ledger.statuses) if word is FrameStatus.STORED]
    return {
        "n": ledger.n_frames,
        "status": [[str(word), len(list(same))] for word, same in runs],
        "reasons": {}, "files": {}, "counts": ledger.counts(), "complete": False,
        "axis": sweep.axis, "angles": [float(sweep.midpoints[0]), sweep.step],
        "last": stored[-1] if stored else None,
    }  # fmt: skip
