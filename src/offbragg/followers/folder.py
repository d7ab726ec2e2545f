"""Folders of finished frames into one scan file: no run, no beamline, no catalog.

The sweep's stacker is the one that follows runs. Here it is given the files of a sweep that has
ended; what is known of it comes from the names and the headers of the files, and perhaps from a
model.
"""

from __future__ import annotations

import contextlib
import math
import re
import threading
import time
import unicodedata
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from offbragg.errors import ConfigError, FrameError, GeometryError, ScanFileError
from offbragg.files import Head, read_frame, read_head
from offbragg.files.compressed import frame_kind
from offbragg.files.frame_files import FrameFiles
from offbragg.files.frame_pool import processors
from offbragg.files.header_time import header_time
from offbragg.files.headers import agree, axis_name
from offbragg.files.left_behind import release_if_left
from offbragg.files.model import (
    Model,
    begin_where_headers_do,
    compare_times,
    compare_with_headers,
    known_of,
    times,
)
from offbragg.files.nxrefine import has_wrapper, wrapper_path, write_wrapper
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_writer import ScanWriter
from offbragg.files.series import Series, find_series
from offbragg.followers.frame_source import FrameSource
from offbragg.followers.sweep_stacker import Ending, SweepStacker
from offbragg.ledger import FrameStatus, Ledger, describe_problems
from offbragg.sample import check_component
from offbragg.sweep import Sweep

_LOOK = 0.05  # s
_UNNAMED_AXIS = "axis0"  # nothing says which one turned


@dataclass(frozen=True, slots=True)
class Stacked:
    """What became of a folder of frames."""

    file: str
    files: int
    frames: int
    stored: int
    missing: int
    rejected: int
    pending: int
    seconds: float
    frames_per_second: float
    wrapper: str | None
    """What NXRefine opens; None without a model of the geometry."""
    problems: tuple[str, ...]

    @property
    def unused(self) -> bool:
        """Whether there are files whose frames could not be stored."""
        return self.rejected > 0 or self.files > self.stored

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return asdict(self)


def stack_files(
    pattern: str,
    out: Path,
    *,
    model: Path | None = None,
    sample: str | None = None,
    trust_model: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop: threading.Event | None = None,
) -> Stacked:
    """Stack the frame files that a pattern matches into a scan file.

    A file that an earlier call left unfinished is completed; a finished one gets the frames that
    were missing or rejected, if their files are good now.

    Parameters
    ----------
    pattern
        Of CBF or TIFF files, as in a shell.
    out
        The scan file.
    model
        Geometry and angles, JSON, or only the exposure time. Without geometry the scan file says
        nothing about beam, panel and axes. Where the axis began comes from the headers, if most of
        them have a start angle and an increment; else the model's start belongs to the lowest
        number.
    sample
        Name of the sample; that of the folder if not given. Sweeps of one crystal need the same.
    trust_model
        Take a model whose geometry contradicts the headers: the differences are listed.
    progress
        Called with (frames decided, frames in all).
    stop
        Set it to end before all is done.

    Raises
    ------
    ConfigError
        If the files are not of one series, do not say what a sweep needs, or contradict the model
        or, without a majority, each other. A frame whose header says that it is of another
        sweep than most is rejected.
    MetadataError
        If ``sample`` cannot name one.
    ScanFileError
        If ``out`` is there and holds something else, or cannot be written.
    """
    began = time.perf_counter()
    if sample is not None:
        check_component(sample, "sample.name")
    series = find_series(pattern)
    found = _find(series, None if model is None else Model.read(model), sample, trust_model)
    start = found.start
    if out.is_dir():
        raise ConfigError(f"{out} is a directory: give the name of a file in it")
    if out.exists():
        release_if_left(out)
        with ScanFile.open(out) as scan:
            if scan.run != start["uid"]:
                raise _other(scan, series, pattern)
            _check_same_sweep(scan, start)
            named = scan.start["sample"]["name"]
            if sample is not None and sample != named:
                raise ScanFileError(
                    f"{out} has the sample {named}, and {sample} is asked for\n"
                    "It is left as it is. Go on with the name that it has, or give another --out."
                )
            start, before = scan.start, scan.ledger.counts()["stored"]
    else:
        ScanWriter.create(
            out.parent, start=start, data_shape=start["detector"]["shape"], name=out.name
        ).close()
        before = 0
    stacker = SweepStacker(
        start,
        out,
        FrameSource(_frame_files(series)),
        experiment=None,
        late=0.0,
        contradicting=found.contradicting,
    )
    try:
        stacker.expect(range(series.n_frames))
        stacker.end(Ending(found.ended, "success"))
        while not stacker.poll() and not (stop is not None and stop.is_set()):
            progress(stacker.decided, series.n_frames)
            if not stacker.busy:
                time.sleep(_LOOK)  # for files without a checksum to have stopped changing
    except BaseException:
        with contextlib.suppress(ScanFileError):  # it follows from what is under way
            stacker.close()
        raise
    stacker.close()
    seconds = time.perf_counter() - began
    with ScanFile.open(out) as scan:
        ledger = scan.ledger
    counts = ledger.counts()
    wrapper, unwrapped = (None, []) if counts["pending"] else _wrap(out, counts["stored"] != before)
    return Stacked(
        file=str(out),
        files=series.n_files,
        frames=series.n_frames,
        seconds=seconds,
        frames_per_second=(counts["stored"] - before) / seconds,
        wrapper=wrapper,
        problems=(
            *describe_problems(ledger.problems()),
            *_stored_before(found.contradicting, ledger),
            *found.differences,
            *unwrapped,
            *_angle_at_the_end(series, Sweep.from_dict(start["sweep"]), ledger),
        ),
        **counts,
    )


def _other(scan: ScanFile, series: Series, pattern: str) -> ScanFileError:
    """Return the error of a scan file that holds other frames than a series."""
    what = f"holds other frames than {pattern}"
    files: dict[str, Any] = scan.start.get("files") or {}
    same = {"directory": str(series.directory), "template": series.template}
    if same.items() <= files.items():
        first = files.get("first_number", 0)
        had = f"{first} to {first + scan.n_frames - 1}"
        now = f"{series.first} to {series.first + series.n_frames - 1}"
        what = (
            "holds these frames with another model, or without one"
            if had == now
            else f"has the frames {had} of this series, and {pattern} matches {now}"
        )
    return ScanFileError(
        f"{scan.path} {what}\nIt is left as it is, and does not grow: give another --out."
    )


def _check_same_sweep(scan: ScanFile, start: Mapping[str, Any]) -> None:
    """Refuse frames whose headers agree on another sweep by now than the file was made with."""
    had, now = scan.sweep, Sweep.from_dict(start["sweep"])
    for what, old, new, limit in (
        ("begins at", had.start, now.start, 0.5 * abs(had.step) + 1e-3),
        ("turns a frame by", had.step, now.step, 1e-3 * abs(had.step) + 1e-4),
    ):
        if abs(old - new) > limit:
            raise ScanFileError(
                f"{scan.path} {what} {old:g} degree, and the headers of its frames now say "
                f"{new:g} degree\nIt is left as it is: give another --out."
            )


def _stored_before(contradicting: Mapping[int, str], ledger: Ledger) -> list[str]:
    """List frames that are refused now, and were stored before."""
    return [
        f"frame {number} is stored, but {why}: stack into another --out to leave it out"
        for number, why in contradicting.items()
        if ledger.statuses[number] is FrameStatus.STORED
    ]


def _wrap(out: Path, changed: bool) -> tuple[str | None, list[str]]:
    """Write what NXRefine opens, as for a run, if the geometry is known."""
    with ScanFile.open(out) as scan:
        if scan.start["geometry"] is None:
            return None, []
    try:
        wrapper = wrapper_path(out) if has_wrapper(out) and not changed else write_wrapper(out)
    except (GeometryError, ScanFileError, OSError) as error:
        return None, [f"no NXRefine wrapper: {str(error).partition(chr(10))[0]}"]
    return str(wrapper), []


@dataclass(frozen=True, slots=True)
class _Found:
    """What files, headers and model say about a sweep."""

    start: dict[str, Any]
    ended: float  # POSIX s
    contradicting: dict[int, str]
    differences: list[str]


def _find(series: Series, model: Model | None, sample: str | None, trusted: bool) -> _Found:
    heads = _heads(series)
    shape = _common_shape(series, heads)
    heads = {number: head for number, head in heads.items() if head.shape == shape}
    agreement = agree(
        {number: head.header for number, head in heads.items()},
        lambda number: series.path(number).name,
        known=None if model is None else known_of(model),
        trusted=trusted,
    )
    header, differences = agreement.header, agreement.differences
    good = _first_good(series, [n for n in heads if n not in agreement.refused], shape)
    geometry, known = None, {}
    if model is not None:
        differences += compare_times(model, header)
    if model is not None and model.has_geometry:
        geometry, sweep, known = model.geometry(
            shape=shape, header=header, n_frames=series.n_frames
        )
        differences += compare_with_headers(model, geometry, header, trusted=trusted)
        sweep, more = begin_where_headers_do(sweep, header, good, model, trusted=trusted)
        differences += more
    else:
        sweep = _sweep_of_headers(header, series, model)
    most = [head.most_counts for head in heads.values() if head.most_counts is not None]
    model_text = "" if model is None else model.text
    identity = f"{series.directory}/{series.template}/{series.first}+{series.n_frames}/{model_text}"
    began = _measured(series, heads, agreement.refused, good)
    start = {
        "uid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"offbragg:files:{identity}")),
        "time": began,
        "plan_name": "from_files",
        "purpose": "data",
        "files": {
            "directory": str(series.directory),
            "template": series.template,
            "first_number": series.first,
            "n_frames": series.n_frames,
            "differences": differences,
        },
        "sample": {"name": sample or _sample_name(series.directory), "label": "files", **known},
        "sweep": sweep.to_dict(),
        "geometry": None if geometry is None else geometry.to_dict(),
        **{key: header[key] for key in ("wavelength",) if geometry is None and key in header},
        "detector": {
            "name": "pilatus",
            "format": _kind(series).lstrip("."),
            "shape": list(shape),
            **_detector(header, most),
        },
    }
    ended = _ended(heads, agreement.refused, began + sweep.duration)
    return _Found(start, ended, agreement.refused, differences)


def _heads(series: Series) -> dict[int, Head]:
    """Read the headers of all files that have one."""

    def read(number: int) -> Head | FrameError | OSError:
        try:
            return read_head(series.path(number))
        except (FrameError, OSError) as error:
            return error

    def read_some(numbers: range) -> list[tuple[int, Head | FrameError | OSError]]:
        return [(number, read(number)) for number in numbers]

    threads = processors()
    shares = [range(first, series.n_frames, threads) for first in range(threads)]
    with ThreadPoolExecutor(threads) as pool:  # bzip2 takes its time
        found = dict(sorted(chain.from_iterable(pool.map(read_some, shares))))
    heads = {number: head for number, head in found.items() if isinstance(head, Head)}
    if not heads:
        why = next((e for e in found.values() if not isinstance(e, FileNotFoundError)), "")
        raise ConfigError(f"none of {series.n_files} files is a frame: {why}")
    return heads


def _common_shape(series: Series, heads: Mapping[int, Head]) -> tuple[int, int]:
    """Return the shape that most of the files have; the others are rejected as they are read."""
    shapes = Counter(head.shape for head in heads.values())
    shape, n = shapes.most_common(1)[0]
    if 2 * n <= len(heads):
        some = ", ".join(
            f"{rows} × {columns} in {n}" for (rows, columns), n in shapes.most_common(3)
        )
        raise ConfigError(
            f"the frames of {series.template} have different shapes: {some} of {len(heads)} files\n"
            "Give a pattern that matches the frames of one detector."
        )
    return shape


def _first_good(series: Series, numbers: list[int], shape: tuple[int, int]) -> int:
    """Find a frame that can be read: without one there is nothing to make a scan file of."""
    why: Exception | None = None
    for number in numbers:
        try:
            read_frame(series.path(number), number=number, shape=shape)
            return number
        except (FrameError, OSError) as error:
            why = why or error
    raise ConfigError(f"none of {series.n_files} files is a frame: {why}")


def _kind(series: Series) -> str:
    kind = frame_kind(Path(series.template))
    assert kind is not None  # `find_series` takes no others
    return kind


def _sample_name(directory: Path) -> str:
    """Name a sample after its folder, as far as the name of a sample can have the characters."""
    letters = unicodedata.normalize("NFKD", directory.name)
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", plain).strip("._-")[:100]
    return name or "frames"


def _angle_at_the_end(series: Series, sweep: Sweep, ledger: Ledger) -> list[str]:
    """Compare the last stored frame's header, too: wrong numbers and rounded steps show there."""
    stored = [n for n, status in enumerate(ledger.statuses) if status is FrameStatus.STORED]
    if not stored:
        return []
    path = series.path(stored[-1])
    try:
        header = read_head(path).header
    except (FrameError, OSError):
        return []
    start_angle = header.get("start_angle")
    if start_angle is None or header.get("angle_increment", 0.0) == 0.0:
        return []
    expected = float(sweep.starts[stored[-1]])
    if abs(math.remainder(start_angle - expected, 360.0)) <= 0.5 * abs(sweep.step) + 1e-4:
        return []
    return [
        f"frame {stored[-1]} begins at {expected:.4f} degree in the scan file, but "
        f"{path.name} says Start_angle {start_angle:.4f}"
    ]


def _sweep_of_headers(header: Mapping[str, Any], series: Series, model: Model | None) -> Sweep:
    exposure, period = times(header) if model is None else model.times(header)
    return Sweep(
        axis=axis_name(header) or _UNNAMED_AXIS,
        start=header.get("start_angle", 0.0),
        step=header.get("angle_increment", 0.0),
        n_frames=series.n_frames,
        exposure=exposure,
        period=period,
    )


def _measured(
    series: Series, heads: Mapping[int, Head], refused: Mapping[int, str], good: int
) -> float:
    """Return when the first frame was taken: by its header, in local time, or by its file."""
    for number, head in sorted(heads.items()):
        if number not in refused and (taken := header_time(head.header)) is not None:
            return taken
    return series.path(good).stat().st_mtime


def _ended(heads: Mapping[int, Head], refused: Mapping[int, str], otherwise: float) -> float:
    """Return when the last frame was exposed to its end, POSIX s, if a header says it."""
    for number, head in sorted(heads.items(), reverse=True):
        if number not in refused and (taken := header_time(head.header)) is not None:
            return taken + head.header.get("exposure_time", 0.0)
    return otherwise


def _detector(header: Mapping[str, Any], most_counts: list[int]) -> dict[str, Any]:
    names = {"beam_xy": "beam_center"}
    known = {
        names.get(key, key): header[key]
        for key in ("sensor_material", "sensor_thickness", "pixel_size", "distance", "beam_xy")
        if key in header
    }
    if "detector" in header:
        known["model"] = header["detector"].partition(",")[0]
    # what a pixel cannot exceed has been cut off there
    limits = [limit for limit in (header.get("count_cutoff", 0.0), *most_counts) if limit > 0]
    if limits:
        known["saturation"] = min(limits)
    return known


def _frame_files(series: Series) -> FrameFiles:
    parameters = {
        "template": series.template,
        "first_number": series.first,
        "n_frames": series.n_frames,
        "exposure_started": math.nan,  # the time of a copied file means nothing
    }
    return FrameFiles({"uri": series.directory.as_uri(), "parameters": parameters})
