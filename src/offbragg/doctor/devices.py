"""The instruments, for `offbragg doctor`: records, servers, clocks, one frame of the detector."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from offbragg.beamline.agreements import agreements_of
from offbragg.beamline.build import build_devices, destroy_devices, find, roles_of
from offbragg.beamline.config import Beamline
from offbragg.devices.frame_folder import describe_owner
from offbragg.doctor.findings import Finding, judge_clock, trouble
from offbragg.doctor.servers import find_servers
from offbragg.errors import OffbraggError
from offbragg.files import read_frame
from offbragg.files.journal_file import is_open
from offbragg.files.journal_folder import journals
from offbragg.protocols import Detector, HasGeometry, meets
from offbragg.sweep import Sweep

UPDATE_TIMEOUT = 3.0  # for one update of a monitored record, s
_TEXT_TYPES = ("string", "char", "enum")
_WRITTEN = {"EpicsMotor": ("user_setpoint", "velocity", "motor_stop")}
"""Of classes that ophyd brings, the signals that offbragg writes; its own classes declare
EpicsSignalRO what they only read."""


def examine_devices(config: Beamline, *, expose: bool, timeout: float) -> Iterator[Finding]:
    """Look at every instrument; the parameters are those of `offbragg.doctor.examine.examine`."""
    made: dict[str, Any] = {}
    try:
        for name, device in config.devices.items():
            needed = [value["device"] for value in device.parameters.values()
                      if isinstance(value, dict) and "device" in value]  # fmt: skip
            if failed := [each for each in needed if each in config.devices and each not in made]:
                yield Finding(
                    f"devices.{name}", "failure", f"built from {', '.join(failed)}, which failed",
                    f"Correct {', '.join(failed)} first.",
                )  # fmt: skip
                continue
            try:
                made |= build_devices(config, [name], beside=made, timeout=timeout)
            except OffbraggError as error:
                yield trouble(f"devices.{name}", error)
            else:
                yield _records(config, name, made[name])
                yield from _doubts(config, name, made[name])
                yield from _ready_to_move(name, made[name])
        yield from _servers(made)
        yield from _signals(config, made)
        for name, device in made.items():
            if meets(device, Detector):
                yield from _one_frame(config, name, device, expose=expose)
    finally:
        destroy_devices(made)


def _records(config: Beamline, name: str, device: object) -> Finding:
    """Compare the types of a device's records with those it expects."""
    wrong: list[str] = []
    known: dict[str, str] = {}
    for signal in _signals_of(device):
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
        if writes is not None and not getattr(writes, "write_access", True) and _is_written(signal):
            wrong.append(f"{writes.pvname} may not be written")
    servers = sorted(_servers_of(device))
    agreed = agreements_of(device, roles_of(config, name))
    facts = {
        "records": known,
        "servers": servers,
        "agreements": {role: list(more) for role, more in agreed.roles.items()},
    }
    if wrong:
        advice = (
            f"Check that class and prefix in {config.file} fit that IOC, and that its access "
            "security lets this host write."
        )
        some = "1 record does" if len(wrong) == 1 else f"{len(wrong)} records do"
        what = f"{some} not match: {wrong[0]}"
        advice = "\n".join([*wrong[1:5], advice])
        return Finding(f"devices.{name}", "failure", what, advice, facts)
    what = f"{agreed}; {_count(known, servers)}" if agreed.roles else _count(known, servers)
    return Finding(f"devices.{name}", "ok", what, facts=facts)


def _doubts(config: Beamline, name: str, device: object) -> Iterator[Finding]:
    """Name members that may be misspelt ones of an agreement."""
    for doubt in agreements_of(device, roles_of(config, name)).doubts:
        yield Finding(
            f"agreement of {name}", "warning", doubt,
            "If so, rename it: until then no plan finds it. Otherwise leave it.",
        )  # fmt: skip


def _is_written(signal: Any) -> bool:
    """Return whether offbragg writes a signal; for ophyd's own classes there is a list.

    A motor record refuses puts to TDIR and others that ophyd declares as if they could be written.
    """
    parent = signal.parent
    if parent is None:
        return True
    owners = [cls for cls in type(parent).__mro__ if signal.attr_name in vars(cls)]
    if not owners or not owners[-1].__module__.startswith("ophyd."):
        return True
    return signal.attr_name in _WRITTEN.get(owners[-1].__name__, ())


def _servers_of(device: object) -> set[str]:
    """Return the servers of a device's records, as Channel Access names them (host:port)."""
    hosts = {
        str(getattr(pv, "host", None) or "")
        for signal in _signals_of(device)
        for pv in _records_of(signal)
    }
    return hosts - {""}


def _count(records: Mapping[str, str], servers: list[str]) -> str:
    where = f", from {', '.join(servers)}" if servers else ""
    return f"{len(records)} record{' answers' if len(records) == 1 else 's answer'}{where}"


def _servers(devices: Mapping[str, Any]) -> Iterator[Finding]:
    """Find the IOCs that serve the beamline, and records that are served twice."""
    owner: dict[str, str] = {}
    for name, device in devices.items():
        for signal in _signals_of(device):
            for pv in _records_of(signal):
                owner.setdefault(pv.pvname.partition(".")[0], name)
    if not owner:
        return
    servers: dict[str, set[str]] = {}
    twice: list[str] = []
    for record, hosts in find_servers(list(owner)).items():
        for host in hosts:
            servers.setdefault(host, set()).add(owner[record])
        if len(hosts) > 1:
            twice.append(f"{record} ({owner[record]}) by {' and '.join(sorted(hosts))}")
    facts = {"servers": {host: sorted(names) for host, names in sorted(servers.items())}}
    if twice:
        more = f", and {len(twice) - 1} more" if len(twice) > 1 else ""
        yield Finding(
            "channel access", "warning", f"served twice: {twice[0]}{more}",
            "Channel Access takes the server that answers first, which may be the wrong one.\n"
            "Stop one of them, or remove it from [channel_access] address_list.", facts,
        )  # fmt: skip
    elif servers:
        several = len(servers) > 1
        text = "; ".join(
            f"{host} ({', '.join(names)})" if several else host
            for host, names in facts["servers"].items()
        )
        yield Finding(
            "channel access", "ok", f"{len(servers)} server{'s' if several else ''}: {text}",
            facts=facts,
        )  # fmt: skip


def _ready_to_move(name: str, device: object) -> Iterator[Finding]:
    """Name a motor record that takes puts and does not move: its SPMG is not Go."""
    from ophyd import EpicsMotor  # isort: skip  # first: it chooses the libca of pyepics
    from epics import caget

    if not isinstance(device, EpicsMotor):
        return
    record = f"{device.prefix}.SPMG"
    mode = caget(record, as_string=True, timeout=2.0)
    if mode in ("Go", None):  # None: a motor-like record without it
        return
    wanted = float(device.user_setpoint.get(use_monitor=False))
    there = float(device.user_readback.get(use_monitor=False))
    jump = ""
    if abs(wanted - there) > 1e-3:
        jump = f"\nIt then moves to {wanted:g}: put {there:g} to {device.prefix}.VAL to avoid that."
    yield Finding(
        f"motion of {name}", "failure", f"{name} does not move: {record} is {mode}, not Go",
        f"It was stopped by hand. When it may move, set {record} to Go.{jump}",
        {"spmg": mode, "setpoint": wanted, "readback": there},
    )  # fmt: skip


def _signals_of(device: object) -> list[Any]:
    """Return the signals of an ophyd device; an empty list for any other."""
    walk = getattr(device, "walk_signals", tuple)
    return [walked.item for walked in walk()]


def _records_of(signal: Any) -> list[Any]:
    pvs = (getattr(signal, "_read_pv", None), getattr(signal, "_write_pv", None))
    return list({pv.pvname: pv for pv in pvs if pv is not None}.values())


def _signals(config: Beamline, devices: Mapping[str, Any]) -> Iterator[Finding]:
    """Check that the per-frame signals update, and their clocks."""
    for column, source in config.per_frame.items():
        check = f"per_frame.{column}"
        if source.signal.split(".")[0] not in devices:
            continue  # its device has been reported
        try:
            signal = find(devices, source.signal, config=config)
        except OffbraggError as error:
            yield trouble(check, error)
            continue
        update = _next_update(signal)
        if update is None:
            yield Finding(
                check, "warning", f"{source.signal} did not update for {UPDATE_TIMEOUT:g} s",
                "Check that the IOC is connected to the instrument.",
            )  # fmt: skip
            continue
        value, skew = update
        yield judge_clock(check, f"{source.signal} is {value:g} {source.units}".rstrip(), skew)


def _next_update(signal: Any) -> tuple[float, float] | None:
    """Wait for the next value of a monitored record; return it and its clock's skew, s."""
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


def _one_frame(config: Beamline, name: str, device: Any, *, expose: bool) -> Iterator[Finding]:
    """Let the detector write one frame, and read it here."""
    check = f"frame of {name}"
    if not expose:
        yield Finding(check, "ok", "not taken (--no-expose)")
        return
    if any(is_open(path) for path in journals(config.paths.journal)):
        yield Finding(check, "ok", "not taken: a run is in progress")
        return
    geometry = device.geometry if meets(device, HasGeometry) else None
    axis = geometry.scan_axis if geometry is not None else "phi"
    path: Path | None = None
    began = time.time()
    try:
        # a still: it waits for no pulse
        device.prepare(Sweep(axis, 0.0, 0.0, 1, exposure=0.05, period=0.1)).wait(30)
        device.kickoff().wait(30)
        device.complete().wait(30)
        ended = time.time()
        documents = dict(device.collect_asset_docs())
        resource = documents["stream_resource"]
        folder = Path(unquote(urlparse(resource["uri"]).path))
        file = folder / resource["parameters"]["template"].format(0)
        path = file
        frame = read_frame(file, number=0)
        written = file.stat()
        made = folder.stat()
    except Exception as error:  # whatever a device, a disk or a decoder raises
        cause = error.__cause__ if isinstance(error.__cause__, OffbraggError) else error
        found = trouble(check, cause)
        if not isinstance(cause, OffbraggError):
            found = Finding(check, "failure", f"{type(error).__name__}: {found.what}")
        advice = "\n".join(
            filter(None, (found.advice, *_why_no_frame(config, name, device, began)))
        )
        yield Finding(check, "failure", found.what, advice)
        return
    finally:
        if hasattr(device, "unstage"):
            left = device.unstage()
            if hasattr(left, "wait"):  # until then its records are not as they were
                with contextlib.suppress(Exception):
                    left.wait(30)
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
    yield _ownership(name, device, folder, made, written)
    if geometry is not None and tuple(geometry.panel.shape) != (slow, fast):
        yield Finding(
            "geometry", "failure",
            f"it has {geometry.panel.shape[1]} × {geometry.panel.shape[0]} pixels, but a frame of "
            f"{name} has {fast} × {slow} pixels",
            f"Correct geometry.panel.shape in {config.file}.",
        )  # fmt: skip
    started = resource["parameters"].get("exposure_started")
    if started:
        skew = started - min(max(started, began), ended)
        yield judge_clock(f"clock of {name}", "exposures are stamped by the IOC", skew)


def _why_no_frame(config: Beamline, name: str, device: object, began: float) -> Iterator[str]:
    """Yield what may keep camserver from writing, or this host from seeing what it wrote."""
    exists = getattr(getattr(device, "cam", None), "file_path_exists", None)
    if exists is not None:
        with contextlib.suppress(TimeoutError):
            if exists.get():
                yield (
                    f"{exists.pvname} is Yes, but that is the IOC's view of the folder: only a "
                    "frame proves that camserver can write there."
                )
    with contextlib.suppress(OSError):
        made = [path for path in config.paths.frames.iterdir() if path.stat().st_mtime > began - 2]
        if made:
            newest = max(made, key=lambda path: path.stat().st_mtime)
            yield (
                f"{newest} belongs to {describe_owner(newest.stat())}: check that the user of "
                "camserver can write there: put both into one group, or set directory_mode."
            )
    yield (
        f"Check that the detector's computer sees {config.paths.frames} as the write_path of "
        f"[devices.{name}]."
    )


def _ownership(
    name: str, device: object, folder: Path, made: os.stat_result, written: os.stat_result
) -> Finding:
    """Name the users on both sides, and compare the folder's mode with the configured one."""
    check = f"folders of {name}"
    file_mode = stat.S_IMODE(written.st_mode)
    facts = {
        what: {"uid": it.st_uid, "gid": it.st_gid, "mode": f"{stat.S_IMODE(it.st_mode):o}"}
        for what, it in (("folder", made), ("frame", written))
    }
    wanted = getattr(device, "directory_mode", None)
    text = f"made here by {describe_owner(made)}"
    if written.st_uid == made.st_uid:
        text += "; camserver writes as the same user"
    else:
        umask = 0o666 & ~file_mode
        text += f"; camserver writes as {describe_owner(written)} (umask {umask:03o})"
    if wanted is not None and stat.S_IMODE(made.st_mode) != int(str(wanted), 8):
        return Finding(
            check, "warning", f"{text}, but directory_mode says {wanted}",
            f"Check that the file system of {folder.parent} keeps modes: try chmod {wanted} there.",
            facts,
        )  # fmt: skip
    return Finding(check, "ok", text, facts=facts)
