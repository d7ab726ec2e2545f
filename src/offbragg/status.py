"""``offbragg status``: what runs, its backlog, the last run, and alarms."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from offbragg.alarms.board_file import read_board
from offbragg.alarms.disk import describe_space
from offbragg.alarms.host import host_load
from offbragg.alarms.looks import Disks, alarms_up
from offbragg.beamline.build import build_devices, destroy_devices
from offbragg.beamline.config import Beamline
from offbragg.callbacks.progress import describe_run
from offbragg.catalog.ask import unpublished
from offbragg.errors import JournalError, OffbraggError
from offbragg.files.find import find_scan_file
from offbragg.files.journal_file import is_open, read_journal, read_start
from offbragg.files.journal_folder import journals
from offbragg.files.run_progress import RunProgress
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_folders import scan_directory
from offbragg.followers.backlog import is_followed, read_backlog
from offbragg.followers.live_state import read_state
from offbragg.printable import printable
from offbragg.transfer.backlog import describe_sending, read_sending

_RECENT = 50  # runs whose files and entries in the catalog are checked
_SEVERITIES = ("", "minor", "major", "invalid")


def status(config: Beamline, *, devices: bool = True, timeout: float = 1.5) -> dict[str, Any]:
    """Read the state of a beamline without changing it; plain JSON types.

    Parameters
    ----------
    config
        The configuration.
    devices
        Check the instruments for alarms, too.
    timeout
        Time limit for the records of one device to connect, s.

    Returns
    -------
    state
        ``stacker`` (whether it runs), ``catalog`` (``up``, ``runs``, ``reason``; ``unpublished``,
        the number of runs that are not in it: while it is down those that wait for it, or None if
        no publisher runs; ``refused``, why runs cannot be published, by uid, if a publisher runs),
        ``running`` (open runs), ``backlog`` (``frames`` and ``runs`` that are not stacked),
        ``stacking`` (the queues of the stacker, see `Stacker.backlog`; empty if none runs),
        ``live`` (the newest live volume, see `read_state`; empty if no `offbragg live` runs),
        ``sending`` (a list, see `offbragg.transfer.backlog.read_sending`; empty if no `offbragg
        send` runs),
        ``last`` (run), ``host`` (see `offbragg.alarms.host.host_load`), ``instruments`` (whether
        they were checked), ``disks`` (with ``rate`` and ``full``, POSIX s, if a watchdog measures
        them) and ``alarms``: ``what``, ``severity``, ``reason`` and, if a watchdog raised it,
        ``since`` (POSIX s, else None).
    """
    directory = config.paths.journal
    recent, damaged = _recent(directory)
    runs = []
    for path in recent:
        try:
            runs.append(_run(config, path))
        except (JournalError, OSError) as error:
            damaged.append(_damaged(path, error))
    ended = [run for run in runs if run["exit_status"] != "running"]
    board = read_board(directory)
    disks, alarms = alarms_up(Disks(dict(config.paths), config.thresholds), board)
    followers = read_backlog(directory)
    sending = read_sending(directory)
    known = {alarm["what"] for alarm in alarms}
    alarms += [alarm for each in sending for alarm in each["alarms"] if alarm["what"] not in known]
    behind = [run for run in ended if run["pending"] or run["complete"] is False]
    return {
        "beamline": config.beamline_id,
        "stacker": directory.is_dir() and is_followed(directory),
        "catalog": _catalog(config, [run["uid"] for run in ended], followers.get("publish", {})),
        "running": [run for run in runs if run["exit_status"] == "running"],
        "backlog": {
            "runs": len(behind),
            "frames": sum(run["pending"] for run in runs),
        },
        "stacking": followers.get("stack", {}),
        "live": read_state(directory),
        "sending": sending,
        "last": ended[-1] if ended else None,
        "host": host_load(board, followers.get("stack", {})),
        "instruments": devices,
        "disks": disks,
        "alarms": [*alarms, *damaged, *(_alarms(config, timeout) if devices else ())],
    }


def _recent(directory: Path) -> tuple[list[Path], list[dict[str, Any]]]:
    """Return the newest journals, oldest first; and an alarm for each without a start document."""
    starts: dict[Path, float] = {}
    damaged = []
    for path in sorted(journals(directory), key=lambda path: path.stat().st_mtime)[-_RECENT:]:
        try:
            starts[path] = read_start(path).get("time", 0.0)
        except JournalError as error:
            damaged.append(_damaged(path, error))
    return sorted(starts, key=lambda path: starts[path]), damaged


def _damaged(path: Path, error: Exception) -> dict[str, Any]:
    reason = str(error).partition("\n")[0]
    return {"what": f"journal {path.name}", "severity": "major", "reason": reason, "since": None}


def _run(config: Beamline, path: Path) -> dict[str, Any]:
    documents, _ = read_journal(path)
    start, (last, stop) = documents[0][1], documents[-1]
    if last != "stop":
        state = "running" if is_open(path) else "abandoned"
        stop = {"time": stop.get("time", start["time"]), "exit_status": state}
    run: dict[str, Any] = {
        "uid": start["uid"],
        "reason": str(stop.get("reason") or "").partition("\n")[0],
        "scan_id": start.get("scan_id"),
        "what": describe_run(start, stop),
        "exit_status": stop["exit_status"],
        "frames": {},
        "pending": 0,
        "complete": None,
        "scan_file": None,
    }
    if not start.get("sweep"):
        return run
    progress = RunProgress.of_documents(start["sweep"]["n_frames"], documents)
    run["complete"] = False
    try:
        found = find_scan_file(scan_directory(config.paths.experiment, start), start["uid"])
        if found is not None:
            with ScanFile.open(found) as scan:
                counts = scan.ledger.counts()
                run["complete"] = scan.complete
            progress.decided = sum(n for word, n in counts.items() if word != "pending")
            run |= {"frames": counts, "scan_file": str(found)}
    except (OffbraggError, OSError, KeyError, TypeError):
        pass  # none yet, or being created
    run["pending"] = progress.due
    return run


def _catalog(config: Beamline, uids: list[str], publishing: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the catalog which runs it has in full; if it is down, the publisher knows what waits."""
    where = config.catalog
    refused = publishing.get("refused", {})
    off = publishing.get("off", "")  # why no publisher runs
    try:
        runs, missing = unpublished(where.host, where.port, config.read_key(), uids)
        return {"up": True, "runs": runs, "unpublished": len(missing), "reason": off,
                "refused": refused}  # fmt: skip
    except OffbraggError as error:
        reason = str(error).partition("\n")[0] + (f"; {off}" if off else "")
        waiting = publishing.get("runs")
        return {"up": False, "runs": None, "unpublished": waiting, "reason": reason,
                "refused": refused}  # fmt: skip


def _alarms(config: Beamline, timeout: float) -> Iterator[dict[str, Any]]:
    made: dict[str, Any] = {}
    try:
        for name, device in config.devices.items():
            if device.made_of & config.devices.keys() - made.keys():
                continue  # what it is built from has been reported
            try:
                made |= build_devices(config, [name], beside=made, timeout=timeout)
            except OffbraggError as error:
                reason = str(error).partition("\n")[0]
                yield {"what": name, "severity": "invalid", "reason": reason, "since": None}
                continue
            yield from _alarms_of(made[name])
    finally:
        destroy_devices(made)


def _alarms_of(device: Any) -> Iterator[dict[str, Any]]:
    for attribute in [*device.read_attrs, *device.configuration_attrs]:
        signal = getattr(device, attribute)
        if not hasattr(signal, "alarm_severity"):
            continue
        try:
            value = signal.get()
            severity = int(signal.alarm_severity or 0)
        except (TimeoutError, OSError, TypeError, ValueError):
            continue
        if severity:
            yield {
                "what": f"{device.name}.{attribute}",
                "severity": _SEVERITIES[min(severity, 3)],
                "reason": f"{getattr(signal, 'pvname', attribute)} is {value}",
                "since": None,
            }


def describe(state: Mapping[str, Any]) -> str:
    """Describe a state for people.

    Examples
    --------
    >>> print(describe({"stacker": False, "catalog": {"up": False, "reason": "no answer"},
    ...                 "running": [], "backlog": {"runs": 0, "frames": 0}, "last": None,
    ...                 "alarms": []}))
    stacker   not running; start it: offbragg stack
    catalog   not available: no answer
    running   nothing
    backlog   none
    last run  none
    disks     none
    host      unknown
    alarms    none
    """
    catalog = state["catalog"]
    lines = [
        "follows the journal" if state["stacker"] else "not running; start it: offbragg stack",
        "\n          ".join(
            [
                _plural(catalog["runs"], "run")
                if catalog["up"]
                else printable(f"not available: {catalog['reason']}"),
                *([printable(catalog["reason"])] if catalog["up"] and catalog["reason"] else ()),
                *(printable(reason) for reason in catalog.get("refused", {}).values()),
            ]
        ),
        "\n          ".join(_describe(run) for run in state["running"]) or "nothing",
        _describe_backlog(state),
        _describe(state["last"]) if state["last"] else "none",
        "\n          ".join(map(_describe_disk, state.get("disks", ()))) or "none",
        _describe_host(state.get("host", {})),
        "\n          ".join(_alarm_lines(state)),
    ]
    heads = ["stacker", "catalog", "running", "backlog", "last run", "disks", "host", "alarms"]
    if state.get("live"):
        heads.insert(5, "live")
        lines.insert(5, _describe_live(state["live"]))
    if state.get("sending"):
        heads.insert(4, "sending")
        lines.insert(4, "\n          ".join(map(describe_sending, state["sending"])))
    return "\n".join(f"{head:9} {line}" for head, line in zip(heads, lines, strict=True))


def _describe_live(live: Mapping[str, Any]) -> str:
    """Describe the volume that grows, and why it does not.

    Examples
    --------
    >>> _describe_live({"volume": "/data/live-f1.h5", "state": "growing", "frames": 40, "of": 60,
    ...                 "orientation": "start document", "why": ""})
    '/data/live-f1.h5 growing: 40 of 60 frames; orientation from start document'
    >>> _describe_live({"volume": "/data/live-f1.h5", "state": "closed", "frames": 60, "of": 60,
    ...                 "orientation": "", "why": "", "after": 2.31})
    '/data/live-f1.h5 closed: 60 of 60 frames; complete 2.3 s after the last frame'
    """
    text = f"{live['volume']} {live['state']}: {live['frames']} of {live['of']} frames"
    source = f"; orientation from {live['orientation']}" if live["orientation"] else ""
    after = live.get("after")
    complete = "" if after is None else f"; complete {after:.1f} s after the last frame"
    why = f"\n          {printable(live['why'])}" if live["why"] else ""
    return f"{printable(text + source + complete)}{why}"


def _describe(run: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{n} {word}" for word, n in run["frames"].items() if n)
    reason = f"\n          {printable(run['reason'])}" if run.get("reason") else ""
    return f"{run['what']}{f' · {counts}' if counts else ''}{reason}"


def _describe_host(host: Mapping[str, Any]) -> str:
    if not host:
        return "unknown"
    load = f"load {host['load']:.1f} on {_plural(host['cores'], 'core')}"
    return f"TOO BUSY: {host['busy']}" if host["busy"] else f"{load}: not too busy"


def _alarm_lines(state: Mapping[str, Any]) -> list[str]:
    lines = [_describe_alarm(alarm) for alarm in state["alarms"]] or ["none"]
    if not state.get("instruments", True):
        lines[-1] += "; instruments were not checked (offbragg status --devices)"
    return lines


def _describe_disk(disk: Mapping[str, Any]) -> str:
    span = disk.get("span")
    space = describe_space(
        disk["free"], disk["rate"], time.time(), span=math.inf if span is None else span
    )
    return f"{space}: {', '.join(disk['paths'])}"


def _describe_alarm(alarm: Mapping[str, Any]) -> str:
    text = printable(f"{alarm['severity']}: {alarm['what']}: {alarm['reason']}")
    if alarm.get("since") is None:
        return text
    since = datetime.fromtimestamp(alarm["since"])
    form = "%H:%M:%S" if since.date() == datetime.now().date() else "%a %d %b %H:%M:%S"
    return f"{text} (since {since:{form}})"


def _describe_backlog(state: Mapping[str, Any]) -> str:
    backlog = state["backlog"]
    parts = []
    if backlog["frames"] or backlog["runs"]:
        frames, runs = _plural(backlog["frames"], "frame"), _plural(backlog["runs"], "ended run")
        parts.append(f"{frames}, {runs} to be stacked")
    if state["catalog"].get("unpublished"):
        parts.append(f"{_plural(state['catalog']['unpublished'], 'run')} to be published")
    stacking = state.get("stacking")
    if stacking and stacking.get("frames"):
        safe = stacking.get("durable", 0)
        frames = _plural(stacking["frames"], "frame")
        parts.append(f"{safe} of {frames} safe from a power cut")
    if stacking and stacking["in_work"]:
        batches = _plural(stacking["batches"], "batch", "batches")
        parts.append(f"{_plural(stacking['in_work'], 'frame')} in work, {batches} to be written")
    return "; ".join(parts) or "none"


def _plural(n: int, word: str, words: str = "") -> str:
    return f"{n} {word}" if n == 1 else f"{n} {words or f'{word}s'}"
