"""A catalog's runs and volumes as NeXus groups, laid out as NXRefine's wrapper files are.

One root for a sample and a temperature: ``/entry`` has the sample and, if there is one, the volume
as ``transform``; ``/f1``, ``/f2``, … are the runs, each with its frames. So the same path leads to
the same thing at every temperature, which NeXpy's scan panel needs.
"""

# pyright: reportArgumentType=false, reportOptionalMemberAccess=false, reportMissingImports=false
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nexusformat.nexus import NXcollection, NXdata, NXentry, NXfield, NXroot, NXsample
from numpy.typing import NDArray

from offbragg.errors import CatalogError
from offbragg.nexpy.arrays import RemoteArray, grown, remote_field
from offbragg.remote.run import Run
from offbragg.remote.tables import describe
from offbragg.remote.volumes import RemoteVolume, best_of

_AXES = ("Ql", "Qk", "Qh")
_NAMES = ("l", "k", "h")


def root_name(sample: str | None, temperature: float | None) -> str:
    """Return the name of a root, which is a name of Python, too.

    Examples
    --------
    >>> root_name("LSMO-140", 102.5), root_name("2H-TaS2", None)
    ('LSMO_140_102p5K', 's2H_TaS2')
    """
    kelvin = "" if temperature is None else f"_{temperature:g}K".replace(".", "p").replace("-", "m")
    name = re.sub(r"\W", "_", f"{sample or 'runs'}{kelvin}")
    return name if name.isidentifier() else f"s{name}"


def as_root(runs: Sequence[Run]) -> NXroot:
    """Return runs of one sample and temperature as a root; nothing but metadata is read.

    Parameters
    ----------
    runs
        In the order in which they were measured.
    """
    first = runs[0]
    root = NXroot(name=root_name(first.sample, first.temperature))
    root["entry"] = entry = NXentry()
    entry["sample"] = _sample(first)
    for level, data in transforms(runs):
        entry["transform" if level == 1 else f"transform_{level}"] = data
    for number, run in enumerate(runs, start=1):
        root[f"f{number}"] = as_entry(run)
    if "transform" in entry:
        entry.attrs["default"] = "transform"
    root.attrs["default"] = "entry" if "transform" in entry else "f1"
    return root


def as_entry(run: Run) -> NXentry:
    """Return one run: its frames, angles, and what is known of it."""
    growth = Growth.ask(run)
    n, slow, fast = growth.shape
    array = RemoteArray(_frames_of(run), (n, slow, fast), np.int32, advice="Ask for fewer frames.")
    frame = NXfield(np.arange(n), name="frame_number")
    y, x = (NXfield(np.arange(size), name=name) for size, name in
            ((slow, "y_pixel"), (fast, "x_pixel")))  # fmt: skip
    data = NXdata(remote_field(array, "data", long_name="counts"), [frame, y, x], title=_title(run))
    data["angle"] = NXfield(growth.angles, units="degree", long_name=run.row.get("axis") or "angle")
    entry = NXentry(data=data)
    entry["title"] = _title(run)
    entry["sample"] = _sample(run)
    entry["offbragg"] = NXcollection(uid=run.uid, state=run.state, scan_id=run.scan_id or -1)
    entry.attrs["default"] = "data"
    return entry


def transforms(runs: Sequence[Run]) -> list[tuple[int, NXdata]]:
    """Return the volume of these runs, at each level that it has; empty if there is none."""
    wanted = {run.uid for run in runs}
    found = {volume.key: volume for run in runs for volume in run.volumes}
    own = [each for each in found.values() if set(each.row.get("runs") or ()) <= wanted]
    if not own:
        return []
    most = max(len(each.row.get("runs") or ()) for each in own)
    volume = best_of([each for each in own if len(each.row.get("runs") or ()) == most], "these")
    return [(level, as_data(volume, level)) for level in volume.row.get("levels") or [1]]


def as_data(volume: RemoteVolume, level: int = 1) -> NXdata:
    """Return a volume, signal ``v`` in the order l, k, h, as CCTW and NXRefine have it."""
    axes = [positions(volume.row["grid"], axis, level) for axis in (2, 1, 0)]
    shape = [len(each) for each in axes]
    advice = "Take a plane, or a coarser one: transform_2, transform_4, transform_8."
    array = RemoteArray(_cells_of(volume, axes, level), shape, np.float32, advice=advice)
    fields = [
        NXfield(values, name=name, long_name=f"{label} (r.l.u.)")
        for values, name, label in zip(axes, _AXES, _NAMES, strict=True)
    ]
    title = describe(volume.row.get("sample"), volume.temperature, volume.state)
    data = NXdata(remote_field(array, "v", long_name="S(Q)"), fields, title=title)
    data.attrs["offbragg_volume"] = volume.key
    return data


def positions(grid: dict[str, Any], axis: int, level: int = 1) -> NDArray[np.float64]:
    """Return where the cells of a grid lie along h, k or l (0, 1, 2), r.l.u.

    A cell of a coarser level lies at the mean of its cells; the last one where a whole one would.
    """
    first, n, per_unit = (grid[name][axis] for name in ("first", "shape", "per_unit"))
    cells = np.arange(-(-n // level)) * level + (level - 1) / 2
    return (first + cells) / per_unit


@dataclass(frozen=True, slots=True)
class Growth:
    """How far a run is.

    Parameters
    ----------
    run
        It, as it was asked for.
    shape
        Frames that are decided, slow, fast.
    angles
        One for each frame, degree.
    """

    run: Run
    shape: tuple[int, int, int]
    angles: NDArray[np.float64]

    @classmethod
    def ask(cls, run: Run) -> Growth:
        """Ask the catalog."""
        ledger = run.ledger
        n, slow, fast = run.frames.shape
        return cls(run, (n, slow, fast), ledger.first + ledger.step * np.arange(n))


def grow(entry: NXentry, growth: Growth) -> bool:
    """Let the frames of an entry grow; return whether there are more."""
    data = entry["data"]
    if not grown(data["data"], growth.shape):
        return False
    data["frame_number"] = NXfield(np.arange(growth.shape[0]))
    data["angle"] = NXfield(growth.angles, attrs=data["angle"].attrs)
    return True


def _title(run: Run) -> str:
    scan = "" if run.scan_id is None else f"#{run.scan_id}"
    return describe(scan, run.sample, run.temperature, run.row.get("purpose"))


def _sample(run: Run) -> NXsample:
    sample = NXsample()
    sample["name"] = run.sample or ""
    if run.temperature is not None:
        sample["temperature"] = NXfield(float(run.temperature), units="K")
    return sample


def _frames_of(run: Run) -> Any:
    def read(part: tuple[slice, ...]) -> NDArray[np.int32]:
        return run.frames[part]

    return read


def _cells_of(volume: RemoteVolume, axes: Sequence[NDArray[np.float64]], level: int) -> Any:
    def read(part: tuple[slice, ...]) -> NDArray[np.float32]:
        margin = 0.45 * level / np.array(volume.row["grid"]["per_unit"][::-1])  # the last is nearer
        limits = [
            (float(values[each.start]) - more, float(values[each.stop - 1]) + more)
            for values, each, more in zip(axes, part, margin, strict=True)
        ]
        values = volume.box(*reversed(limits), level=level).intensity.transpose()
        if values.shape != (wanted := tuple(each.stop - each.start for each in part)):
            raise CatalogError(
                f"volume {volume.key}: {wanted} cells were asked for, {values.shape} came\n"
                "It was replaced by another one: open it again."
            )
        return values

    return read
