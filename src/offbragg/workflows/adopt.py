"""Adopt frames that others have stored: a thin scan file beside them, and nothing copied."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ConfigError
from offbragg.files.compressed import frame_kind
from offbragg.files.find import find_scan_file
from offbragg.files.journal_file import has_journal
from offbragg.files.model import Model, compare_with_headers, times
from offbragg.files.others import OthersFrames, find_frames, read_turn, read_values
from offbragg.files.others_images import are_images, find_images
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_folders import scan_directory
from offbragg.files.text_logs import TextLogs, read_text_logs
from offbragg.files.thin_scan_file import write_thin_scan_file
from offbragg.files.whole_journal import write_whole_journal
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
    temperature: float | None = None,
    angles: str | None = None,
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
        Path in the file of the incident monitor, one number for each frame; or the name of a column
        of the text file beside it.
    given
        What the file does not say, or says wrong, by the keys of a header: ``oscillation_axis``,
        ``start_angle`` and ``angle_increment``, degree, ``exposure_time`` and
        ``exposure_period``, s.
    temperature
        Of the sample, K.
    angles
        Path in the file of the angles at which frames begin, degree.
    progress
        Called with (frames read, frames in all).

    Raises
    ------
    ConfigError
        If something is not known: all of it by name. Or a model contradicts what the file says.
    ScanFileError
        If something cannot be read or written.
    """
    what = describe(
        path, dataset=dataset, model=model, sample=sample, n_frames=n_frames, monitor=monitor,
        given=given, temperature=temperature, angles=angles,
    )  # fmt: skip
    write(what, out, progress=progress)


@dataclass(frozen=True, slots=True)
class Adoption:
    """What is to be adopted: the frames, and the start document of their run."""

    found: OthersFrames
    start: dict[str, Any]
    values: dict[str, NDArray[np.float64]]
    """Per-frame columns, each of shape (frame,)."""


def describe(
    path: Path,
    *,
    dataset: str | None = None,
    model: Path | None = None,
    sample: str | None = None,
    n_frames: int | None = None,
    monitor: str | None = None,
    given: Mapping[str, Any] | None = None,
    temperature: float | None = None,
    series: str | None = None,
    angles: str | None = None,
) -> Adoption:
    """Find the frames, and what is known of them; parameters and errors are those of `adopt`.

    Text files beside it (`offbragg.files.text_logs`) become part of the start document, ``logs``.
    ``series`` groups runs, of several temperatures perhaps. ``angles`` is the path in the file of
    the angles at which frames begin, degree.
    """
    logs: TextLogs | None = None
    if are_images(path):
        if dataset is not None or monitor is not None or angles is not None:
            raise ConfigError(f"{path} is not an HDF5 file: it has no datasets to name")
        found = find_images(path, n_frames)
    else:
        found, logs = find_frames(path, dataset, n_frames), read_text_logs(path)
    read = None if model is None else Model.read(model)
    turn = {} if angles is None else read_turn(path, angles, found.n_frames)
    header = {**found.header, **turn, **{k: v for k, v in (given or {}).items() if v is not None}}
    _check_nothing_is_missing(path, header, found.unclear, read, sample)
    check_component(str(sample), "sample.name")
    geometry, sweep, known = _sweep(found, read, header)
    values: dict[str, NDArray[np.float64]] = {}
    if monitor is not None:
        values["monitor"] = (
            read_values(path, monitor, found.n_frames)
            if logs is None or monitor.startswith("/")
            else logs.column(monitor, found.n_frames)
        )
    identity = f"{path.resolve()}/{dataset}/{sweep}/{'' if read is None else read.text}"
    start = {
        "uid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"offbragg:adopted:{identity}")),
        "time": _written(found, path),
        "plan_name": "adopt",
        "purpose": "data",
        "sample": {"name": sample, "label": "adopted", **known},
        "sweep": sweep.to_dict(),
        "geometry": None if geometry is None else geometry.to_dict(),
        **{key: header[key] for key in ("wavelength",) if geometry is None and key in header},
        "detector": {
            "name": "adopted", "format": _format(found), "shape": list(found.shape),
            **found.detector,
        },
        "per_frame": {name: {"key": monitor} for name in values},
        **({} if logs is None else {"logs": logs.to_dict()}),
        **({} if temperature is None else {"temperature": {"setpoint": float(temperature)}}),
        **({} if series is None else {"series": {"uid": series, "kind": "temperature"}}),
    }  # fmt: skip
    if series is not None:
        check_component(series, "series")
    return Adoption(found, start, values)


def write(
    what: Adoption,
    out: Path,
    *,
    next_free: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write the thin scan file; with ``next_free``, in the folder ``out`` as the next ``fN.h5``.

    Raises
    ------
    ScanFileError
        If it is there already, or cannot be written.
    """
    return write_thin_scan_file(
        out, what.start, what.found.folder, what.found.pieces,
        values=what.values, mask=what.found.mask, next_free=next_free, progress=progress,
    )  # fmt: skip


def adopt_as_run(
    what: Adoption,
    *,
    experiment: Path,
    journal: Path,
    readable: Sequence[Path],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write the thin scan file and the journal of a run, which the catalog then lists.

    The scan file comes first: a run whose journal is there has its frames.

    Parameters
    ----------
    what
        Of `describe`.
    experiment, journal
        Where scan files and journals of the beamline are.
    readable
        Folders below which the catalog may read adopted frames.
    progress
        Called with (frames read, frames in all).

    Returns
    -------
    path
        The scan file, ``<sample>/<label>/<scan>/fN.h5`` below ``experiment``. The one that is there
        already, if its journal alone was missing.

    Raises
    ------
    ConfigError
        If the catalog may not read the folder, or the run is there already.
    ScanFileError, JournalError
        If something cannot be written.
    """
    home = what.found.folder.resolve()
    if not any(home.is_relative_to(folder.resolve()) for folder in readable):
        raise ConfigError(
            f"the catalog may not read {home}\n"
            f'Add it to beamline.toml: [catalog] adopted = ["{home}"], and restart offbragg serve.'
        )
    start = what.start
    uid = str(start["uid"])
    folder = scan_directory(experiment, start)
    path = find_scan_file(folder, uid)
    its_journal = journal / f"{uid}.jsonl"
    if path is not None and has_journal(its_journal):
        raise ConfigError(
            f"{home} is adopted already: run {uid[:8]}, {path}\n"
            "If its frames have changed, remove both that scan file and its journal, and adopt "
            "them again."
        )
    if path is None:
        path = write(what, folder, next_free=True, progress=progress)
    if not has_journal(its_journal):
        with ScanFile.open(path) as scan:
            start = scan.start
        ended = start["time"] + Sweep.from_dict(start["sweep"]).duration
        stop: dict[str, Any] = {
            "uid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{uid}/stop")),
            "run_start": uid, "time": ended, "exit_status": "success", "reason": "",
            "num_events": {},
        }  # fmt: skip
        write_whole_journal(its_journal, [("start", start), ("stop", stop)])
    return path


def _format(found: OthersFrames) -> str:
    """Return what the frames are stored in: ``hdf5``, ``cbf`` or ``tif``."""
    piece = found.pieces[0]
    kind = None if piece.kind == "hdf5" else frame_kind(Path(piece.source(piece.first)))
    return (kind or ".hdf5").lstrip(".")


def _written(found: OthersFrames, path: Path) -> float:
    """Return when the first file was written that is there, POSIX s."""
    piece = found.pieces[0]
    files = (found.folder / piece.source(number) for number in range(piece.first, piece.stop))
    there = next((file for file in (path, *files) if file.is_file()), path.parent)
    return there.stat().st_mtime


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
