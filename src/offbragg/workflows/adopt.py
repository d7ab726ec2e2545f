"""Adopt frames that others have stored: a thin scan file beside them, and nothing copied."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from offbragg.errors import ConfigError
from offbragg.files.model import Model, compare_with_headers, times
from offbragg.files.others import OthersFrames, find_frames, read_values
from offbragg.files.thin_scan_file import write_thin_scan_file
from offbragg.geometry import Geometry
from offbragg.sample import check_component
from offbragg.sweep import Sweep

_OPTIONS = {
    "--axis": "oscillation_axis",
    "--start": "start_angle",
    "--step": "angle_increment",
    "--exposure": "exposure_time",
}
"""Options, and the key of a header that says the same."""


def adopt(
    path: Path,
    out: Path,
    *,
    dataset: str | None = None,
    model: Path | None = None,
    sample: str | None = None,
    n_frames: int | None = None,
    monitor: str | None = None,
    given: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the thin scan file of frames that lie in an HDF5 file, or that it links.

    Parameters
    ----------
    path, dataset, n_frames
        As for `find_frames`.
    out
        The scan file.
    model
        Geometry, crystal and angles, JSON.
    sample
        Name of the sample.
    monitor
        Path in the file of the incident monitor, one number for each frame.
    given
        What the file does not say, or says wrong, by the keys of a header: ``oscillation_axis``,
        ``start_angle`` and ``angle_increment``, degree, ``exposure_time`` and
        ``exposure_period``, s.
    progress
        Called with (frames read, frames in all).

    Raises
    ------
    ConfigError
        If something is not known: all of it by name. Or a model contradicts what the file says.
    ScanFileError
        If something cannot be read or written.
    """
    found = find_frames(path, dataset, n_frames)
    read = None if model is None else Model.read(model)
    header = {**found.header, **{k: v for k, v in (given or {}).items() if v is not None}}
    _check_nothing_is_missing(path, header, found.unclear, read, sample)
    check_component(str(sample), "sample.name")
    geometry, sweep, known = _sweep(found, read, header)
    values = {} if monitor is None else {"monitor": read_values(path, monitor, found.n_frames)}
    identity = f"{path.resolve()}/{dataset}/{sweep}/{'' if read is None else read.text}"
    start = {
        "uid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"offbragg:adopted:{identity}")),
        "time": path.stat().st_mtime,
        "plan_name": "adopt",
        "purpose": "data",
        "sample": {"name": sample, "label": "adopted", **known},
        "sweep": sweep.to_dict(),
        "geometry": None if geometry is None else geometry.to_dict(),
        **{key: header[key] for key in ("wavelength",) if geometry is None and key in header},
        "detector": {
            "name": "adopted", "format": "hdf5", "shape": list(found.shape), **found.detector
        },
        "per_frame": {name: {"key": monitor} for name in values},
    }  # fmt: skip
    write_thin_scan_file(
        out, start, found.folder, found.pieces,
        values=values, mask=found.mask, progress=progress,
    )  # fmt: skip


def _check_nothing_is_missing(
    path: Path,
    header: Mapping[str, Any],
    unclear: frozenset[str],
    model: Model | None,
    sample: str | None,
) -> None:
    has = {name for name, key in _OPTIONS.items() if key in header}
    if model is not None:
        has |= {"--axis", "--start", "--step"} if model.has_geometry else set[str]()
        has |= {"--exposure"} if "exposure_time" in model.document else set[str]()
    missing = [name for name in _OPTIONS if name not in has]
    # it is that of the exposure where nothing is said of it, and not where its units are not known
    missing += ["--period"] if "exposure_period" in unclear - header.keys() else []
    missing += ["--sample"] if sample is None else []
    if missing:
        raise ConfigError(f"{path} does not say all that is needed\nGive {', '.join(missing)}.")


def _sweep(
    found: OthersFrames, model: Model | None, header: Mapping[str, Any]
) -> tuple[Geometry | None, Sweep, dict[str, Any]]:
    n = found.n_frames
    if model is None or not model.has_geometry:
        exposure, period = times(header) if model is None else model.times(header)
        sweep = Sweep(
            axis=header["oscillation_axis"],
            start=header["start_angle"],
            step=header["angle_increment"],
            n_frames=n,
            exposure=exposure,
            period=period,
        )
        return None, sweep, {}
    geometry, sweep, known = model.geometry(shape=found.shape, header=header, n_frames=n)
    compare_with_headers(model, geometry, header, trusted=False)
    for what, key, value in (
        ("begins at", "start_angle", sweep.start),
        ("turns a frame by", "angle_increment", sweep.step),
    ):
        other = header.get(key, value)
        if abs(other - value) > 1e-3 * abs(sweep.step) + 1e-4:
            raise ConfigError(
                f"{model.path} {what} {value:g} degree, and the file or an option has "
                f"{other:g} degree\nGive the model of these frames."
            )
    return geometry, sweep, known
