"""Folders of finished frames into one scan file: no run, no beamline, no catalog.

The stacker is the one that follows journals. Here it is given the documents of a sweep that is
over, made from the names and the headers of the files, and perhaps from a model.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import threading
import time
import unicodedata
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from glob import glob
from pathlib import Path
from stat import S_ISREG
from typing import Any
from urllib.parse import quote

from offbragg.callbacks.frame_files import FRAME_SEQUENCES
from offbragg.callbacks.stacker import SweepStacker
from offbragg.errors import ConfigError, FrameError, ScanFileError
from offbragg.files import read_frame, read_header
from offbragg.files.scan_file import ScanFile, release_if_left
from offbragg.frame import Frame
from offbragg.geometry import Geometry
from offbragg.ledger import Ledger, Status, describe_problems
from offbragg.sample import check_component
from offbragg.sweep import Sweep

_MOST_FRAMES = 1_000_000
_LOOK = 0.05  # s
_MIMETYPES: dict[str, str] = dict(
    zip((".cbf", ".tif", ".tiff"), (*FRAME_SEQUENCES, FRAME_SEQUENCES[1]), strict=True)
)


@dataclass(frozen=True, slots=True)
class Series:
    """Frame files of one name with a number in it; frame 0 has the lowest one."""

    directory: Path
    template: str
    first: int
    n_frames: int
    n_files: int

    def path(self, number: int) -> Path:
        """Say where a frame's file is, or would be."""
        return self.directory / self.template.format(self.first + number)


def find_series(pattern: str) -> Series:
    """Find the frame files that a shell pattern matches; their numbers are the last in the name.

    Raises
    ------
    ConfigError
        If there are none, or they are not of one series.
    """
    paths = sorted(Path(name) for name in glob(pattern))  # noqa: PTH207  it may be absolute
    if not paths:
        raise ConfigError(
            f"no file matches {pattern}\nQuote the pattern, so that the shell leaves it."
        )
    kinds: dict[tuple[Path, str, str], dict[int, str]] = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # a link to nothing is a missing frame
            if not S_ISREG(path.stat().st_mode):
                raise ConfigError(f"{path} is no file\nGive a pattern that leaves it out.")
        if path.suffix.lower() not in _MIMETYPES:
            raise ConfigError(f"{path.name} is no frame: only .cbf, .tif and .tiff are read")
        found = re.fullmatch(r"(.*?)(\d+)", path.stem)
        if found is None:
            raise ConfigError(
                f"{path.name} does not end with a number, which would say which frame it is"
            )
        digits = kinds.setdefault((path.parent, found[1], path.suffix), {})
        if (number := int(found[2])) in digits:
            raise ConfigError(f"{path.name} and another file both have the number {number}")
        digits[number] = found[2]
    if len(kinds) > 1:
        names = ", ".join(f"{name}*{suffix}" for _, name, suffix in list(kinds)[:3])
        raise ConfigError(
            f"{pattern} matches {len(kinds)} series: {names}\nGive a pattern that matches one."
        )
    (((directory, name, suffix), digits),) = kinds.items()
    width = min(map(len, digits.values()))
    for number, text in digits.items():
        if f"{number:0{width}d}" != text:
            raise ConfigError(f"{name}{text}{suffix} has another number of digits than others")
    first, last = min(digits), max(digits)
    if last - first >= _MOST_FRAMES:
        raise ConfigError(
            f"{pattern} has numbers from {first} to {last}: too far apart for a sweep"
        )
    escaped = (name.replace("{", "{{").replace("}", "}}"), suffix)
    template = f"{escaped[0]}{{:0{width}d}}{escaped[1]}"
    return Series(directory.resolve(), template, first, last - first + 1, len(digits))


def read_model(
    model: Path, *, shape: tuple[int, int], header: Mapping[str, Any], n_frames: int
) -> tuple[Geometry, Sweep, dict[str, Any]]:
    """Read geometry, sweep and crystal of frames from a model (see `Geometry.from_model`).

    Raises
    ------
    ConfigError
        If the model is missing or wrong, or the header does not say the exposure time.
    """
    told = _read_json(model)
    try:
        scan = told["goniometer"]["scan_axis"]
        names = [f"axis{i}" for i in range(len(told["goniometer"]["axes"]))]
        if not isinstance(scan, int) or not 0 <= scan < len(names):
            raise ConfigError(
                f"{model} has {len(names)} goniometer axes and scan_axis {_short(repr(scan))}: "
                "it counts them from 0"
            )
        names[scan] = "omega"
        names[0 if scan else -1] = "phi" if len(names) > 1 else names[-1]
        geometry, UB = Geometry.from_model(told, shape=shape, names=names)
        exposure, period = _times({**told, **header})
        sweep = Sweep(
            axis=geometry.scan_axis,
            start=told["goniometer"]["start_deg"],
            step=told["goniometer"]["step_deg"],
            n_frames=n_frames,
            exposure=exposure,
            period=period,
        )
        return geometry, sweep, {"lattice": told["cell"], "UB": UB.tolist()}
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ConfigError(f"{model} is no model of a sweep: {_short(repr(error))}") from error


def _read_json(model: Path) -> Any:
    try:
        return json.loads(model.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{model} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:  # it has the whole file within
        why = f"byte {error.start} is no text"
    except (ValueError, RecursionError) as error:
        why = _short(str(error))
    raise ConfigError(f"{model} is no model of a sweep: it is not JSON ({why})")


def _short(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


@dataclass(frozen=True, slots=True)
class Stacked:
    """What became of a folder of frames."""

    file: str
    frames: int
    stored: int
    missing: int
    rejected: int
    pending: int
    seconds: float
    frames_per_second: float
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def stack_files(
    pattern: str,
    out: Path,
    *,
    model: Path | None = None,
    sample: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop: threading.Event | None = None,
) -> Stacked:
    """Stack the frame files that a pattern matches into a scan file.

    A file that an earlier call left unfinished is gone on with; one that is whole gets the frames
    that were missing or rejected, if their files are good now.

    Parameters
    ----------
    pattern
        Of CBF or TIFF files, as in a shell.
    out
        The scan file.
    model
        Geometry and angles, JSON. Without it the scan file says nothing of beam, panel and axes.
        Where the axis began comes from the header of the first frame, if that has a start angle and
        an increment; else the model's start belongs to the lowest number.
    sample
        Name of the sample; that of the folder if not given. Sweeps of one crystal need the same.
    progress
        Told how many frames are decided, and of how many.
    stop
        Set it to end before all is done.

    Raises
    ------
    ConfigError
        If the files are not of one series, do not say what a sweep needs, or contradict the model.
    MetadataError
        If ``sample`` cannot name one.
    ScanFileError
        If ``out`` is there and holds something else, or cannot be written.
    """
    began = time.perf_counter()
    if sample is not None:
        check_component(sample, "sample.name")
    series = find_series(pattern)
    start = _start_document(series, model, sample)
    if out.is_dir():
        raise ConfigError(f"{out} is a directory: give the name of a file in it")
    if out.exists():
        release_if_left(out)
        with ScanFile.open(out) as scan:
            if scan.run != start["uid"]:
                raise _other(scan, series, pattern)
            named = scan.start["sample"]["name"]
            if sample is not None and sample != named:
                raise ScanFileError(
                    f"{out} has the sample {named}, and {sample} is asked for\n"
                    "It is left as it is. Go on with the name that it has, or give another --out."
                )
            start, before = scan.start, scan.ledger.counts()["stored"]
    else:
        ScanFile.create(
            out.parent, start=start, data_shape=start["detector"]["shape"], name=out.name
        ).close()
        before = 0
    stacker = SweepStacker(start, out, experiment=None, late=0.0)
    try:
        for name, doc in _documents(series, start):
            stacker(name, doc)
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
    return Stacked(
        file=str(out),
        frames=series.n_frames,
        seconds=seconds,
        frames_per_second=(counts["stored"] - before) / seconds,
        problems=(
            *describe_problems(ledger.problems()),
            *_angle_at_the_end(series, Sweep.from_dict(start["sweep"]), ledger),
        ),
        **counts,
    )


def _other(scan: ScanFile, series: Series, pattern: str) -> ScanFileError:
    """Say in what a scan file is of other frames than a series."""
    what = f"holds other frames than {pattern}"
    files: Any = scan.start.get("files")
    same = {"directory": str(series.directory), "template": series.template}
    if isinstance(files, dict) and same.items() <= files.items():
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


def _start_document(series: Series, model: Path | None, sample: str | None) -> dict[str, Any]:
    first = _first_good(series)
    header = first.header
    known: dict[str, Any] = {}
    if model is not None:
        geometry, sweep, known = read_model(
            model, shape=first.shape, header=header, n_frames=series.n_frames
        )
        sweep = _from_its_header(sweep, first, series.path(first.number))
    else:
        geometry, sweep = None, _sweep_of_headers(first, series)
    told = "" if model is None else model.read_text(encoding="utf-8")
    identity = f"{series.directory}/{series.template}/{series.first}+{series.n_frames}/{told}"
    return {
        "uid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"offbragg:files:{identity}")),
        "time": _measured(header, series.path(first.number)),
        "plan_name": "from_files",
        "purpose": "data",
        "files": {
            "directory": str(series.directory),
            "template": series.template,
            "first_number": series.first,
        },
        "sample": {"name": sample or _sample_name(series.directory), "label": "files", **known},
        "sweep": sweep.to_dict(),
        "geometry": None if geometry is None else geometry.to_dict(),
        "detector": {
            "name": "pilatus",
            "format": series.template.rpartition(".")[2].lower().replace("tiff", "tif"),
            "shape": list(first.shape),
            **_detector(header),
        },
    }


def _sample_name(directory: Path) -> str:
    """Name a sample after its folder, as far as the name of a sample can have the characters."""
    letters = unicodedata.normalize("NFKD", directory.name)
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", plain).strip("._-")[:100]
    return name or "frames"


def _first_good(series: Series) -> Frame:
    """Read the first frame that can be: it tells shape and header of all of them."""
    why: Exception | None = None
    for number in range(series.n_frames):
        try:
            return read_frame(series.path(number), number=number)
        except FileNotFoundError:
            continue
        except FrameError as error:
            why = why or error
    raise ConfigError(f"none of {series.n_files} files is a frame: {why}")


def _times(header: Mapping[str, Any]) -> tuple[float, float]:
    """Give exposure and period, s."""
    exposure = header.get("exposure_time")
    if exposure is None:
        raise ConfigError(
            "the header of the first frame does not say Exposure_time\n"
            "Say it in a model: exposure_time and exposure_period, s (--model FILE)."
        )
    return exposure, max(header.get("exposure_period", exposure), exposure)


def _from_its_header(sweep: Sweep, frame: Frame, path: Path) -> Sweep:
    """Let a model's sweep begin where the header says, if it says at which angle a frame began.

    The model may be of other frames of that crystal, so its start need not be that of the lowest
    number; only the step can be compared.
    """
    start, step = frame.header.get("start_angle"), frame.header.get("angle_increment", 0.0)
    if start is None or step == 0.0:
        return sweep
    if abs(step - sweep.step) > 1e-3 * abs(sweep.step) + 1e-4:
        raise ConfigError(
            f"{path.name} says Angle_increment {step:g} degree, and the model step_deg "
            f"{sweep.step:g} degree\nGive the model of these frames."
        )
    return replace(sweep, start=start - frame.number * sweep.step)


def _angle_at_the_end(series: Series, sweep: Sweep, ledger: Ledger) -> list[str]:
    """Compare the last stored frame's header, too: wrong numbers and rounded steps show there."""
    stored = [n for n, status in enumerate(ledger.statuses) if status is Status.STORED]
    if not stored:
        return []
    path = series.path(stored[-1])
    try:
        header = read_header(path)
    except (FrameError, OSError):
        return []
    told = header.get("start_angle")
    if told is None or header.get("angle_increment", 0.0) == 0.0:
        return []
    expected = float(sweep.starts[stored[-1]])
    if abs(math.remainder(told - expected, 360.0)) <= 0.5 * abs(sweep.step) + 1e-4:
        return []
    return [
        f"frame {stored[-1]} begins at {expected:.4f} degree in the scan file, but "
        f"{path.name} says Start_angle {told:.4f}"
    ]


def _sweep_of_headers(frame: Frame, series: Series) -> Sweep:
    header = frame.header
    exposure, period = _times(header)
    step = header.get("angle_increment", 0.0)
    words = re.findall(r"\w+", header.get("oscillation_axis", ""))
    return Sweep(
        axis=words[0].lower() if words else "omega",
        start=header.get("start_angle", 0.0) - frame.number * step,
        step=step,
        n_frames=series.n_frames,
        exposure=exposure,
        period=period,
    )


def _measured(header: Mapping[str, Any], path: Path) -> float:
    """When the first frame was taken: by its header, in local time, or by its file."""
    try:
        return datetime.fromisoformat(header["date"].replace("/", "-")).timestamp()
    except (KeyError, ValueError):
        return path.stat().st_mtime


def _detector(header: Mapping[str, Any]) -> dict[str, Any]:
    known = {key: header[key] for key in ("sensor_material", "sensor_thickness") if key in header}
    if "detector" in header:
        known["model"] = header["detector"].partition(",")[0]
    if header.get("count_cutoff", 0.0) > 0:
        known["saturation"] = header["count_cutoff"]
    return known


def _documents(series: Series, start: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    suffix = f".{series.template.rpartition('.')[2].lower()}"
    resource = {
        "uid": f"{start['uid']}/files",
        "mimetype": _MIMETYPES[suffix],
        "uri": f"file://localhost{quote(str(series.directory))}/",
        "parameters": {
            "template": series.template,
            "first_number": series.first,
            "exposure_started": math.nan,  # a copy does not tell by its time
        },
    }
    datum = {
        "stream_resource": resource["uid"],
        "indices": {"start": 0, "stop": series.n_frames},
    }
    stop = {
        "time": start["time"],
        "exit_status": "success",
        "reason": "",
        "run_start": start["uid"],
    }
    return [("stream_resource", resource), ("stream_datum", datum), ("stop", stop)]
