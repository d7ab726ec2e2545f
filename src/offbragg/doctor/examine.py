"""``offbragg doctor``: check everything that a measurement needs, and advise on each failure.

It moves nothing. If the detector is idle it takes one short frame, which proves the whole path:
camserver writes it under its path, and this host reads it under its own.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from offbragg import kernels
from offbragg.alarms.disk import describe_bytes
from offbragg.beamline.config import Beamline
from offbragg.beamline.init import unfinished
from offbragg.beamline.limits import make_paths
from offbragg.doctor.devices import examine_devices
from offbragg.doctor.findings import SKEW_FAILURE, Finding, trouble
from offbragg.doctor.private import examine_private_parts
from offbragg.errors import OffbraggError
from offbragg.files.journal_file import is_open, read_journal, read_start
from offbragg.files.journal_folder import journals
from offbragg.followers.backlog import is_followed

CONNECT_TIMEOUT = 3.0  # for the records of one device, s
LONG_SWEEP = 3650  # frames of one usual sweep
_DAY = 86400.0
_LEAST_SWEEPS, _LEAST_HOURS = 3, 1.0  # a rate that is measured over less is not a forecast
_RECENT = 200  # journals that are read in full


def examine(
    config: Beamline,
    *,
    devices: bool = True,
    expose: bool = True,
    timeout: float = CONNECT_TIMEOUT,
    make_directories: bool = False,
) -> Iterator[Finding]:
    """Check everything, one finding after the other.

    Parameters
    ----------
    config
        What `beamline.load` gave.
    devices
        Check the instruments, too; not on a host that cannot reach them.
    expose
        Take one short frame if the detector is idle.
    timeout
        Time limit for the records of one device to connect, s.
    make_directories
        Make the missing directories of [paths] before checking them.
    """
    yield _versions()
    yield _kernels()
    yield from examine_private_parts()
    yield from _unfinished(config)
    if make_directories:
        yield from _make_directories(config)
    yield from _paths(config)
    yield from _disks(config)
    yield from _journal(config)
    yield _stacker(config)
    yield _catalog(config)
    yield from _alarm_command(config)
    yield _geometry(config)
    if devices:
        yield from examine_devices(config, expose=expose, timeout=timeout)


# -- this host ---------------------------------------------------------------------------------


_EXTRAS = ("", "tiled", "catalog", "beamline")  # what a host of the beamline has installed
_INSTALL = "pip install --upgrade 'offbragg[beamline]'"


def _versions() -> Finding:
    wrong: list[str] = []
    have = {"python": ".".join(map(str, sys.version_info[:3]))}
    try:
        required = importlib.metadata.requires("offbragg") or []
        have["offbragg"] = importlib.metadata.version("offbragg")
    except importlib.metadata.PackageNotFoundError:
        return Finding("versions", "failure", "offbragg is not installed", _INSTALL)
    for text in required:
        requirement = Requirement(text)
        if requirement.marker is not None and not any(
            requirement.marker.evaluate({"extra": extra}) for extra in _EXTRAS
        ):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        have[requirement.name] = version
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, required is {requirement.specifier}")
    if wrong:
        return Finding("versions", "failure", "; ".join(wrong), _INSTALL, facts=have)
    shown = ("python", "offbragg", "bluesky", "ophyd", "tiled", "h5py")
    return Finding(
        "versions", "ok", ", ".join(f"{name} {have[name]}" for name in shown if name in have),
        facts=have,
    )  # fmt: skip


def _kernels() -> Finding:
    facts = {"available": list(kernels.available())}
    if kernels.compiled:
        return Finding("kernels", "ok", f"compiled; this processor runs {kernels.level}", "", facts)
    return Finding(
        "kernels", "warning", "C kernels not available: using the slower Python libraries",
        "Install a C compiler (on Debian: apt-get install gcc), then offbragg again.", facts,
    )  # fmt: skip


def _unfinished(config: Beamline) -> Iterator[Finding]:
    """Name the keys that ``offbragg init`` could not read and that are still to be filled in."""
    try:
        text = config.file.read_text(encoding="utf-8")
    except OSError:
        return  # a configuration that no file holds
    left = unfinished(text)
    if left:
        yield Finding(
            "configuration", "failure",
            f"{len(left)} key{'s' if len(left) > 1 else ''} of {config.file} to be filled in",
            f"{', '.join(left)}\nWrite the value and remove '# TODO'. None of them is guessed.",
            {"todo": left},
        )  # fmt: skip


def _make_directories(config: Beamline) -> Iterator[Finding]:
    missing = [f"{path} (paths.{name})" for name, path in config.paths if not path.is_dir()]
    if not missing:
        return
    try:
        make_paths(config)
    except OffbraggError as error:
        yield trouble("directories", error)
        return
    yield Finding("directories", "ok", f"made: {', '.join(missing)}")


def _paths(config: Beamline) -> Iterator[Finding]:
    for name, path in config.paths:
        yield _path(config, f"paths.{name}", path)


def _path(config: Beamline, check: str, path: Path) -> Finding:
    """Write a file, read it back, and compare the file system's clock with ours."""
    probe = path / f".offbragg-doctor-{uuid.uuid4().hex}"
    content = uuid.uuid4().bytes * 256
    advice = f"Get write permission there, or change it in {config.file}."
    try:
        if not path.is_dir():
            return Finding(
                check, "failure", f"{path} does not exist",
                f"offbragg doctor --make-directories makes it; or change it in {config.file}.",
            )  # fmt: skip
        with probe.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        now, written = time.time(), probe.stat().st_mtime
        if probe.read_bytes() != content:
            return Finding(
                check, "failure", f"{path} returned other bytes than were written",
                "Do not use that disk; have it checked.",
            )  # fmt: skip
    except OSError as error:
        return Finding(check, "failure", f"{path} cannot be written: {error.strerror}", advice)
    finally:
        probe.unlink(missing_ok=True)
    skew = written - now
    facts = {"path": str(path), "clock_skew": skew}
    if abs(skew) > SKEW_FAILURE:
        return Finding(
            check, "warning", f"{path}: written and read back, but its server's clock is "
            f"{abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'}",
            "Synchronise that file server and this host with the same time server (NTP).", facts,
        )  # fmt: skip
    return Finding(check, "ok", f"{path}: written and read back", facts=facts)


def _disks(config: Beamline) -> Iterator[Finding]:
    """Estimate how long each disk lasts, at the rate of the last day and for usual sweeps."""
    pixels = _pixels(config)
    pace = _pace(config.paths.journal)
    disks: dict[int, list[str]] = {}
    for name, path in config.paths:
        if path.is_dir():
            disks.setdefault(path.stat().st_dev, []).append(name)
    for names in disks.values():
        path: Path = getattr(config.paths, names[0])
        free = shutil.disk_usage(path).free
        spare = free - config.limits.free_disk * 1e9
        takes = [name for name in names if name in ("frames", "experiment")]
        check = f"disk of {', '.join(names)}"
        text = f"{describe_bytes(free)} free"
        facts: dict[str, Any] = {"free": free, "paths": names}
        level, advice = "ok", ""
        if takes and pixels:
            facts["frames_left"] = max(int(spare / (pixels * 1.2 * len(takes))), 0)
            text += f", room for {facts['frames_left']} frames"
            if facts["frames_left"] < LONG_SWEEP:
                level = "warning"
                advice = f"That is less than one sweep of {LONG_SWEEP} frames: free some space."
        if takes and pace.is_known:
            facts["days_left"] = spare / (pace.per_day * len(takes))
            text += f"; at the {pace} it lasts {facts['days_left']:.1f} days"
            if facts["days_left"] < 0.5 and level == "ok":
                level, advice = "warning", "Free some space, or archive finished runs."
        if spare < 0:
            level = "failure"
            text += f", less than the limit of {config.limits.free_disk:g} GB"
            advice = f"Free some space, or change [paths] or [limits] in {config.file}."
        yield Finding(check, level, text, advice, facts)


def _pixels(config: Beamline) -> int:
    try:
        geometry = config.make_geometry()
    except OffbraggError:
        return 0
    return geometry.panel.shape[0] * geometry.panel.shape[1] if geometry is not None else 0


@dataclass(frozen=True, slots=True)
class _Pace:
    """How fast sweeps have been recorded, and over which time."""

    bytes: float
    sweeps: int
    seconds: float

    @property
    def is_known(self) -> bool:
        """Whether a forecast can be made: one sweep or a short time does not predict the next."""
        return self.sweeps >= _LEAST_SWEEPS and self.seconds >= _LEAST_HOURS * 3600.0

    @property
    def per_day(self) -> float:
        return self.bytes * _DAY / self.seconds

    def __str__(self) -> str:
        return f"rate of the last {self.seconds / 3600:.0f} h, {self.sweeps} sweeps"


def _pace(journal: Path) -> _Pace:
    """Measure what was recorded in the last 24 h, from the first sweep of that time until now."""
    now = time.time()
    total, starts = 0.0, []
    for path in journals(journal) if journal.is_dir() else ():
        if now - path.stat().st_mtime < _DAY:
            try:
                start = read_start(path)
                slow, fast = start["detector"]["shape"]
                total += start["sweep"]["n_frames"] * slow * fast * 1.2
                starts.append(float(start["time"]))
            except (OffbraggError, KeyError, ValueError, OSError):
                continue
    return _Pace(total, len(starts), now - min(starts, default=now))


def _journal(config: Beamline) -> Iterator[Finding]:
    directory = config.paths.journal
    if not directory.is_dir():
        return  # _paths has reported it
    paths = sorted(journals(directory), key=lambda path: path.stat().st_mtime)[-_RECENT:]
    running, abandoned, damaged = [], [], []
    for path in paths:
        try:
            documents, _ = read_journal(path)
            closed = bool(documents) and documents[-1][0] == "stop"
            if not closed:
                (running if is_open(path) else abandoned).append(path.stem)
        except (OffbraggError, OSError) as error:
            damaged.append(str(error))
    facts = {"runs": len(paths), "running": running, "abandoned": abandoned, "damaged": damaged}
    if damaged:
        yield Finding(
            "journal", "failure", f"{len(damaged)} damaged, the first: {damaged[0]}",
            "Keep that file: the run's frames are still on disk. To rebuild the rest: "
            "offbragg stack --once --repair", facts,
        )  # fmt: skip
    elif abandoned:
        yield Finding(
            "journal", "warning",
            f"{len(abandoned)} run{'s' if len(abandoned) > 1 else ''} without a stop document",
            "Its RunEngine was killed: offbragg stack closes it, and keeps its frames.", facts,
        )  # fmt: skip
    else:
        more = f", {len(running)} running" if running else ""
        yield Finding(
            "journal", "ok", f"{len(paths)} run{'' if len(paths) == 1 else 's'}{more}", facts=facts
        )
    number = directory / "scan_id"
    text = number.read_text(errors="replace").strip() if number.exists() else "0"
    if not text.isdigit():
        yield Finding(
            "scan number", "failure", f"{number} holds {text[:40]!r}",
            "Write the number of the last scan into it.",
        )  # fmt: skip


def _stacker(config: Beamline) -> Finding:
    if config.paths.journal.is_dir() and is_followed(config.paths.journal):
        return Finding("stacker", "ok", "follows the journal")
    return Finding(
        "stacker", "warning", "not running: frames are kept, but not stacked",
        f"Start it: offbragg stack --beamline {config.file}",
    )  # fmt: skip


def _alarm_command(config: Beamline) -> Iterator[Finding]:
    command = config.alarms.command
    if not command:
        return
    if shutil.which(command[0]) is None:
        yield Finding(
            "alarm command", "warning", f"{command[0]} is not an executable program",
            f"Correct [alarms] command in {config.file}, or make that file executable.",
        )  # fmt: skip
    else:
        yield Finding("alarm command", "ok", f"{command[0]} exists")


def _catalog(config: Beamline) -> Finding:
    try:
        runs = config.connect_catalog(timeout=2.0)
        count = len(runs)
        runs.context.http_client.close()
    except OffbraggError as error:
        return trouble("catalog", error, level="warning")
    return Finding(
        "catalog", "ok", f"{config.catalog_url} holds {count} run{'' if count == 1 else 's'}"
    )


def _geometry(config: Beamline) -> Finding:
    try:
        geometry = config.make_geometry()
    except OffbraggError as error:
        return trouble("geometry", error)
    if geometry is None:
        return Finding(
            "geometry", "failure", "missing: no sweep can be measured without it",
            f"Describe beam, panel and axes in [geometry] of {config.file}.",
        )  # fmt: skip
    slow, fast = geometry.panel.shape
    axes = ", ".join(axis.name for axis in geometry.axes)
    return Finding(
        "geometry", "ok", f"{geometry.wavelength:g} Å, panel {fast} × {slow}, axes {axes}"
    )


def show(findings: Iterator[Finding], say: Callable[[str], None]) -> list[Finding]:
    """Print each finding as it comes; return all of them."""
    every = []
    for finding in findings:
        say(str(finding))
        every.append(finding)
    return every
