"""``offbragg doctor``: look at everything that a measurement needs, and say what to do.

It moves nothing. If the detector is idle it takes one short frame, which proves the whole way:
camserver writes it under its path, and this host reads it under its own.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from packaging.requirements import Requirement

from offbragg import kernels
from offbragg.beamline import Beamline, build_devices, destroy_devices, find
from offbragg.callbacks.journal import is_open, journals, read_journal, read_start
from offbragg.errors import OffbraggError
from offbragg.files import read_frame
from offbragg.follow import is_followed
from offbragg.sweep import Sweep

SKEW_WARNING, SKEW_FAILURE = 0.1, 1.0  # s; per-frame values are joined by time
CONNECT_TIMEOUT = 3.0  # for the records of one device, s
UPDATE_TIMEOUT = 3.0  # for one update of a monitored record, s
LONG_SWEEP = 3650  # frames of one usual sweep
_DAY = 86400.0
_RECENT = 200  # journals that are read in full
_TEXT_TYPES = ("string", "char", "enum")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    level: str
    """ok, warning (one can measure) or failure."""
    what: str
    advice: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Give it as plain JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.level.upper() if self.level != 'ok' else 'ok':8} {self.check}: {self.what}"
        ]
        lines += [f"         {line}" for line in self.advice.splitlines()]
        return "\n".join(lines)


def examine(
    config: Beamline,
    *,
    devices: bool = True,
    expose: bool = True,
    timeout: float = CONNECT_TIMEOUT,
) -> Iterator[Finding]:
    """Look at everything, one finding after the other.

    Parameters
    ----------
    config
        What `beamline.load` gave.
    devices
        Look at the instruments, too; not on a host that does not see them.
    expose
        Take one short frame if the detector is idle.
    timeout
        For the records of one device to connect, s.
    """
    yield _versions()
    yield _kernels()
    yield from _paths(config)
    yield from _disks(config)
    yield from _journal(config)
    yield _stacker(config)
    yield _catalog(config)
    yield from _alarm_command(config)
    yield _geometry(config)
    if devices:
        yield from _instruments(config, expose=expose, timeout=timeout)


def _trouble(check: str, error: BaseException, *, level: str = "failure") -> Finding:
    first, _, rest = str(error).strip().partition("\n")
    return Finding(check, level, first or type(error).__name__, rest)


# -- this host ---------------------------------------------------------------------------------


def _versions() -> Finding:
    wrong: list[str] = []
    have = {"python": ".".join(map(str, sys.version_info[:3]))}
    try:
        required = importlib.metadata.requires("offbragg") or []
        have["offbragg"] = importlib.metadata.version("offbragg")
    except importlib.metadata.PackageNotFoundError:
        return Finding("versions", "failure", "offbragg is not installed", "pip install offbragg")
    for text in required:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        have[requirement.name] = version
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, needed is {requirement.specifier}")
    if wrong:
        return Finding(
            "versions", "failure", "; ".join(wrong), "pip install --upgrade offbragg", facts=have
        )
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
        "kernels", "warning", "not compiled: the libraries serve, several times slower",
        "Install a C compiler (on Debian: apt-get install gcc), then offbragg again.", facts,
    )  # fmt: skip


def _paths(config: Beamline) -> Iterator[Finding]:
    for name, path in config.paths:
        yield _path(config, f"paths.{name}", path)


def _path(config: Beamline, check: str, path: Path) -> Finding:
    """Write a file, read it back, and compare the file system's clock with ours."""
    probe = path / f".offbragg-doctor-{uuid.uuid4().hex}"
    content = uuid.uuid4().bytes * 256
    advice = f"Make it, give yourself the right to write there, or change it in {config.file}."
    try:
        if not path.is_dir():
            return Finding(check, "failure", f"{path} is not there", advice)
        with probe.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        now, written = time.time(), probe.stat().st_mtime
        if probe.read_bytes() != content:
            return Finding(
                check, "failure", f"{path} gave back other bytes than were written",
                "That disk must not be used: have it checked.",
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
            "Let that file server and this host use the same time server (NTP).", facts,
        )  # fmt: skip
    return Finding(check, "ok", f"{path}: written and read back", facts=facts)


def _disks(config: Beamline) -> Iterator[Finding]:
    """Say how long each disk lasts, at the pace of the last day and for usual sweeps."""
    pixels = _pixels(config)
    day = _bytes_of_last_day(config.paths.journal)
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
        text = f"{free / 1e9:.1f} GB free"
        facts: dict[str, Any] = {"free": free, "paths": names}
        level, advice = "ok", ""
        if takes and pixels:
            facts["frames_left"] = max(int(spare / (pixels * 1.2 * len(takes))), 0)
            text += f", room for {facts['frames_left']} frames"
            if facts["frames_left"] < LONG_SWEEP:
                level = "warning"
                advice = f"That is less than one sweep of {LONG_SWEEP} frames: free some."
        if takes and day:
            facts["days_left"] = spare / (day * len(takes))
            text += f"; at the pace of the last 24 h it lasts {facts['days_left']:.1f} days"
            if facts["days_left"] < 0.5 and level == "ok":
                level, advice = "warning", "Free some, or archive what is done."
        if spare < 0:
            level = "failure"
            text += f", less than the {config.limits.free_disk:g} GB to be left"
            advice = f"Free some, or set [paths] or [limits] in {config.file} otherwise."
        yield Finding(check, level, text, advice, facts)


def _pixels(config: Beamline) -> int:
    try:
        geometry = config.make_geometry()
    except OffbraggError:
        return 0
    return geometry.panel.shape[0] * geometry.panel.shape[1] if geometry is not None else 0


def _bytes_of_last_day(journal: Path) -> float:
    total = 0.0
    for path in journals(journal) if journal.is_dir() else ():
        if time.time() - path.stat().st_mtime < _DAY:
            try:
                start = read_start(path)
                slow, fast = start["detector"]["shape"]
                total += start["sweep"]["n_frames"] * slow * fast * 1.2
            except (OffbraggError, KeyError, ValueError, OSError):
                continue
    return total


def _journal(config: Beamline) -> Iterator[Finding]:
    directory = config.paths.journal
    if not directory.is_dir():
        return  # _paths has said so
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
            "journal", "failure", f"{len(damaged)} damaged, first {damaged[0]}",
            "Keep that file: the run's frames are still on disk. Ask for help.", facts,
        )  # fmt: skip
    elif abandoned:
        yield Finding(
            "journal", "warning", f"{len(abandoned)} runs lost their RunEngine",
            "offbragg stack closes them and keeps their frames.", facts,
        )  # fmt: skip
    else:
        more = f", {len(running)} running" if running else ""
        yield Finding("journal", "ok", f"{len(paths)} runs{more}", facts=facts)
    number = directory / "scan_id"
    text = number.read_text(errors="replace").strip() if number.exists() else "0"
    if not text.isdigit():
        yield Finding(
            "scan number", "failure", f"{number} holds {text[:40]!r}",
            "Write the last scan's number into it.",
        )  # fmt: skip


def _stacker(config: Beamline) -> Finding:
    if config.paths.journal.is_dir() and is_followed(config.paths.journal):
        return Finding("stacker", "ok", "follows the journal")
    return Finding(
        "stacker", "warning", "does not run: frames are kept, but not stacked",
        f"offbragg stack --beamline {config.file}",
    )  # fmt: skip


def _alarm_command(config: Beamline) -> Iterator[Finding]:
    command = config.alarms.command
    if not command:
        return
    if shutil.which(command[0]) is None:
        yield Finding(
            "alarm command", "warning", f"{command[0]} is no program that can be run",
            f"Correct [alarms] command in {config.file}, or make that file executable.",
        )  # fmt: skip
    else:
        yield Finding("alarm command", "ok", f"{command[0]} is there")


def _catalog(config: Beamline) -> Finding:
    try:
        runs = config.connect_catalog(timeout=2.0)
        count = len(runs)
        runs.context.http_client.close()
    except OffbraggError as error:
        return _trouble("catalog", error, level="warning")
    return Finding("catalog", "ok", f"{config.catalog_url} holds {count} runs")


def _geometry(config: Beamline) -> Finding:
    try:
        geometry = config.make_geometry()
    except OffbraggError as error:
        return _trouble("geometry", error)
    if geometry is None:
        return Finding(
            "geometry", "failure", "there is none, so no sweep can be measured",
            f"Describe beam, panel and axes in [geometry] of {config.file}.",
        )  # fmt: skip
    slow, fast = geometry.panel.shape
    axes = ", ".join(axis.name for axis in geometry.axes)
    return Finding(
        "geometry", "ok", f"{geometry.wavelength:g} Å, panel {fast} × {slow}, axes {axes}"
    )


# -- instruments -------------------------------------------------------------------------------


def _instruments(config: Beamline, *, expose: bool, timeout: float) -> Iterator[Finding]:
    made: dict[str, Any] = {}
    try:
        for name, device in config.devices.items():
            needed = [value["device"] for value in device.parameters.values()
                      if isinstance(value, dict) and "device" in value]  # fmt: skip
            if failed := [each for each in needed if each in config.devices and each not in made]:
                yield Finding(
                    f"devices.{name}", "failure", f"it is made of {', '.join(failed)}: see there",
                    f"Mend {', '.join(failed)} first.",
                )  # fmt: skip
                continue
            try:
                made |= build_devices(config, [name], beside=made, timeout=timeout)
            except OffbraggError as error:
                yield _trouble(f"devices.{name}", error)
            else:
                yield _records(config, name, made[name])
        yield from _signals(config, made)
        for name, device in made.items():
            if hasattr(device, "collect_asset_docs") and hasattr(device, "kickoff"):
                yield from _one_frame(config, name, device, expose=expose)
    finally:
        destroy_devices(made)


def _records(config: Beamline, name: str, device: Any) -> Finding:
    """Compare the types of a device's records with what it takes them for."""
    wrong: list[str] = []
    known: dict[str, str] = {}
    for walked in device.walk_signals():
        signal = walked.item
        kinds = []
        for pv in _records_of(signal):
            kind = str(getattr(pv, "type", "")).removeprefix("time_").removeprefix("ctrl_")
            known[pv.pvname] = kind
            kinds.append((pv.pvname, kind))
            if getattr(signal, "_string", False) and kind and kind not in _TEXT_TYPES:
                wrong.append(f"{pv.pvname} is {kind}, not text")
        if len(kinds) == 2 and ("string" in dict(kinds).values()) and kinds[0][1] != kinds[1][1]:
            wrong.append(" and ".join(f"{name} is {kind}" for name, kind in kinds))
        writes = getattr(signal, "_write_pv", None)
        if writes is not None and not getattr(writes, "write_access", True):
            wrong.append(f"{writes.pvname} may not be written")
    facts = {"records": known}
    if wrong:
        advice = (
            f"Do class and prefix in {config.file} fit that IOC, and does its access security let "
            "this host write?"
        )
        what = f"{len(wrong)} of its records are not as needed: {wrong[0]}"
        advice = "\n".join([*wrong[1:5], advice])
        return Finding(f"devices.{name}", "failure", what, advice, facts)
    return Finding(f"devices.{name}", "ok", f"{len(known)} records answer", facts=facts)


def _records_of(signal: Any) -> list[Any]:
    pvs = (getattr(signal, "_read_pv", None), getattr(signal, "_write_pv", None))
    return list({pv.pvname: pv for pv in pvs if pv is not None}.values())


def _signals(config: Beamline, devices: Mapping[str, Any]) -> Iterator[Finding]:
    """See that what is recorded per frame is alive, and by which clock."""
    for column, source in config.per_frame.items():
        check = f"per_frame.{column}"
        if source.signal.split(".")[0] not in devices:
            continue  # its device has been told
        try:
            signal = find(devices, source.signal, config=config)
        except OffbraggError as error:
            yield _trouble(check, error)
            continue
        update = _next_update(signal)
        if update is None:
            yield Finding(
                check, "warning", f"{source.signal} did not change for {UPDATE_TIMEOUT:g} s",
                "Does the IOC still talk to the instrument?",
            )  # fmt: skip
            continue
        value, skew = update
        yield _clock(check, f"{source.signal} is {value:g} {source.units}".rstrip(), skew)


def _next_update(signal: Any) -> tuple[float, float] | None:
    """Wait for the next value of a monitored record; give it and its clock's skew, s."""
    news: list[tuple[float, float]] = []
    came = threading.Event()
    began = time.monotonic()

    def take(value: Any = None, timestamp: float = 0.0, **_: Any) -> None:
        # the first call repeats what is known already
        if time.monotonic() - began > 0.05:
            news.append((float(value), timestamp - time.time()))
            came.set()

    subscription = signal.subscribe(take)
    came.wait(UPDATE_TIMEOUT)
    signal.unsubscribe(subscription)
    return news[0] if news else None


def _clock(check: str, text: str, skew: float) -> Finding:
    facts = {"clock_skew": skew}
    if abs(skew) <= SKEW_WARNING:
        return Finding(check, "ok", text, facts=facts)
    side = "ahead of" if skew > 0 else "behind"
    return Finding(
        check, "failure" if abs(skew) > SKEW_FAILURE else "warning",
        f"{text}, and the IOC's clock is {abs(skew):.2f} s {side} this host's",
        "Values are joined to frames by time: let both use the same time server (NTP).", facts,
    )  # fmt: skip


def _one_frame(config: Beamline, name: str, device: Any, *, expose: bool) -> Iterator[Finding]:
    """Let the detector write one frame, and read it here."""
    check = f"frame of {name}"
    if not expose:
        yield Finding(check, "ok", "not asked to take one")
        return
    if any(is_open(path) for path in journals(config.paths.journal)):
        yield Finding(check, "ok", "none taken: a run is going on")
        return
    geometry = getattr(device, "geometry", None)
    axis = geometry.scan_axis if geometry is not None else "phi"
    trigger = getattr(device, "trigger_mode", None)
    path: Path | None = None
    try:
        if trigger is not None:
            device.trigger_mode = "internal"
        began = time.time()
        device.prepare(Sweep(axis, 0.0, 0.1, 1, exposure=0.05, period=0.1)).wait(30)
        device.kickoff().wait(30)
        device.complete().wait(30)
        ended = time.time()
        documents = dict(device.collect_asset_docs())
        resource = documents["stream_resource"]
        folder = Path(unquote(urlparse(resource["uri"]).path))
        file = folder / resource["parameters"]["template"].format(0)
        path = file
        frame = read_frame(file, number=0)
    except Exception as error:  # whatever a device, a disk or a decoder may say
        cause = error.__cause__ if isinstance(error.__cause__, OffbraggError) else error
        found = _trouble(check, cause)
        if not isinstance(cause, OffbraggError):
            found = Finding(check, "failure", f"{type(error).__name__}: {found.what}")
        advice = (
            f"{found.advice}\nDoes the detector's computer see {config.paths.frames} under the "
            f"path that write_path of [devices.{name}] says?"
        )
        yield Finding(check, "failure", found.what, advice.strip())
        return
    finally:
        if hasattr(device, "unstage"):
            device.unstage()
        if trigger is not None:
            device.trigger_mode = trigger
        if path is not None:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # others' frames, or no folder of its own
                path.parent.rmdir()
    slow, fast = frame.shape
    verified = "its MD5 is right" if frame.verified else "it came without MD5"
    yield Finding(
        check, "ok", f"written by the detector, read here: {fast} × {slow}, {verified}",
        facts={"seconds": ended - began},
    )  # fmt: skip
    if geometry is not None and tuple(geometry.panel.shape) != (slow, fast):
        yield Finding(
            "geometry", "failure",
            f"says {geometry.panel.shape[1]} × {geometry.panel.shape[0]} pixels, and a frame of "
            f"{name} has {fast} × {slow}",
            f"Correct geometry.panel.shape in {config.file}.",
        )  # fmt: skip
    started = resource["parameters"].get("exposure_started")
    if started:
        skew = started - min(max(started, began), ended)
        yield _clock(f"clock of {name}", "exposures are stamped by the IOC", skew)


def tell(findings: Iterator[Finding], say: Callable[[str], None]) -> list[Finding]:
    """Say each finding as it comes; give all of them."""
    every = []
    for finding in findings:
        say(str(finding))
        every.append(finding)
    return every
