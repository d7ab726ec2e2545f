"""Join a sweep that was measured in pieces: after a beam dump, a failure, or a resumed series.

Each piece is a run of its own; its `series.follows` is the uid of the piece before it. The rows of
the pieces say which of them has an angle, and whether it was measured with beam.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import CatalogError
from offbragg.sweep import Sweep

if TYPE_CHECKING:
    import pandas as pd
    from bluesky_tiled_plugins.clients.catalog_of_bluesky_runs import CatalogOfBlueskyRuns

_ROWS = "internal"
_NEAR = 1e-3  # tolerance for the angles of two pieces, in steps


@dataclass(frozen=True, slots=True, eq=False)
class WholeSweep:
    """The pieces of one sweep.

    Parameters
    ----------
    runs
        The pieces, clients of the catalog, in the order of measurement.
    rows
        One row for each angle that any piece has, in the order of the sweep: the columns of the
        stream ``primary``, and ``run`` (uid) and ``frame`` (number of the frame in that run).
    """

    runs: tuple[Any, ...]
    rows: pd.DataFrame

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        uids = ", ".join(run.metadata["start"]["uid"][:8] for run in self.runs)
        return f"<WholeSweep of {len(self)} frames in {len(self.runs)} runs: {uids}>"

    def frames(self, first: int, stop: int) -> NDArray[np.int32]:
        """Read the counts of rows ``first`` to before ``stop``, shape (frame, slow, fast)."""
        chosen = self.rows.iloc[first:stop]
        by_uid = {run.metadata["start"]["uid"]: run for run in self.runs}
        read: list[NDArray[np.int32]] = []
        for uid, numbers in _stretches(chosen["run"], chosen["frame"]):
            stack = by_uid[uid]["primary"][_image_key(by_uid[uid])]
            read.append(np.asarray(stack[numbers.start : numbers.stop]))
        if not read:
            raise IndexError(f"rows {first} to {stop} of {len(self)} are empty")
        return np.concatenate(read)


def whole_sweep(runs: CatalogOfBlueskyRuns, uid: str) -> WholeSweep:
    """Join the pieces of the sweep that a run belongs to.

    Where pieces overlap, the first row that is stored and was exposed with beam (its ``weight``, if
    there is one, is not 0) is chosen for the angle; if there is none, the first row.

    Parameters
    ----------
    runs
        The runs of the catalog, as `offbragg.catalog.client.connect` or Tiled's ``from_uri``
        returns them.
    uid
        Uid of any piece.

    Raises
    ------
    CatalogError
        If the run is not a sweep, or a piece has other angles than the others.
    """
    import pandas as pd

    pieces = pieces_of(runs, uid)
    reference = Sweep.from_dict(pieces[0].metadata["start"]["sweep"])
    tables = []
    for place, run in enumerate(pieces):
        table = _rows(run)
        if table is None:
            continue
        start = run.metadata["start"]
        table["run"] = start["uid"]
        table["frame"] = np.arange(len(table))
        table["_place"] = place
        table["_number"] = _first_number(reference, start) + table["frame"]
        good = table["status"] == "stored"
        if "weight" in table:
            good &= table["weight"] != 0
        table["_worse"] = ~good
        tables.append(table)
    if not tables:
        raise CatalogError(f"run {uid[:8]} has no rows yet\nIts scan file has not been made yet.")
    rows = pd.concat(tables, ignore_index=True)
    rows = rows.sort_values(["_number", "_worse", "_place"], kind="stable")
    rows = rows.drop_duplicates("_number").reset_index(drop=True)
    rows = rows.drop(columns=["_number", "_worse", "_place", "seq_num"])
    return WholeSweep(pieces, rows)


def pieces_of(runs: CatalogOfBlueskyRuns, uid: str) -> tuple[Any, ...]:
    """Find the runs that measured the same sweep, in the order of measurement.

    Parameters
    ----------
    runs, uid
        As in `whole_sweep`.
    """
    from tiled.queries import Key

    try:
        run: Any = runs[uid]
    except KeyError as error:
        raise CatalogError(f"the catalog has no run {uid}") from error
    start = run.metadata["start"]
    if "sweep" not in start:
        raise CatalogError(f"run {uid[:8]} is not a sweep: it has no pieces")
    series = start.get("series") or {}
    if "uid" not in series:
        return (run,)
    others = runs.search(Key("series.uid") == series["uid"]).values()
    all_runs = [other for other in others if "sweep" in other.metadata["start"]]
    if "sweep_of" in series:
        place = list(series["sweep_of"])
        chosen = [one for one in all_runs if _series(one).get("sweep_of") == place]
    else:
        chosen = _chain(all_runs, start["uid"])
    return tuple(sorted(chosen, key=lambda one: one.metadata["start"]["time"]))


def _chain(runs: Sequence[Any], uid: str) -> list[Any]:
    """Find the runs that `follows` connects with this one, in both directions."""
    linked, before = {uid}, 0
    while len(linked) != before:
        before = len(linked)
        for run in runs:
            one, other = run.metadata["start"]["uid"], _series(run).get("follows")
            if other is not None and (one in linked or other in linked):
                linked |= {one, other}
    return [run for run in runs if run.metadata["start"]["uid"] in linked]


def _series(run: Any) -> Mapping[str, Any]:
    series = run.metadata["start"].get("series") or {}
    return {key: list(value) if key == "sweep_of" else value for key, value in series.items()}


def _rows(run: Any) -> pd.DataFrame | None:
    try:
        table = run["primary"].base[_ROWS].read()
    except KeyError:
        return None
    return table[[column for column in table.columns if not column.startswith("ts_")]].copy()


def _first_number(reference: Sweep, start: Mapping[str, Any]) -> int:
    """Find where a piece begins, as a frame of the first piece; below 0 if before it."""
    sweep = Sweep.from_dict(start["sweep"])
    if sweep.step == 0 or reference.step == 0:
        return 0
    first = (sweep.start - reference.start) / reference.step
    alike = sweep.axis == reference.axis and abs(sweep.step - reference.step) < 1e-9
    if not alike or abs(first - round(first)) > _NEAR:
        raise CatalogError(
            f"run {start['uid'][:8]} swept {sweep.axis} from {sweep.start:g} in steps of "
            f"{sweep.step:g} degree, the first piece {reference.axis} from {reference.start:g} in "
            f"steps of {reference.step:g}: these are not pieces of one sweep"
        )
    return round(first)


def _image_key(run: Any) -> str:
    return f"{run.metadata['start']['detector']['name']}_image"


def _stretches(uids: Iterable[str], numbers: Iterable[int]) -> list[tuple[str, range]]:
    """Group successive frames of the same run."""
    found: list[tuple[str, range]] = []
    for uid, number in zip(uids, numbers, strict=True):
        if found and found[-1][0] == uid and found[-1][1].stop == number:
            found[-1] = (uid, range(found[-1][1].start, number + 1))
        else:
            found.append((uid, range(number, number + 1)))
    return found
