# [plan]
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.utils import MsgGenerator

from offbragg.plans import rotation_scan
from offbragg.sweep import Sweep


def chi_series(
    chi: Any,
    angles: Sequence[float],
    sweep: Sweep,
    *,
    md: Mapping[str, Any] | None = None,
    **scan: Any,
) -> MsgGenerator[tuple[str, ...]]:
    """Record the same sweep at several settings of chi, one run each; returns their uids."""
    series = {"uid": str(uuid.uuid4()), "kind": "chi"}
    uids = []
    for index, angle in enumerate(angles):
        yield from bps.checkpoint()
        yield from bps.mv(chi, angle)
        more = {"series": {**series, "index": index}, **(md or {})}
        uids.append((yield from rotation_scan(sweep, md=more, **scan)))
    return tuple(uids)
