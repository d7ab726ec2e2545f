"""What the prompt shows: sample, temperature, the last run, and what is wrong."""

from __future__ import annotations

import logging
import logging.handlers
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from offbragg.beamline.build import find
from offbragg.beamline.config import Beamline
from offbragg.errors import JournalError
from offbragg.followers.backlog import read_backlog
from offbragg.printable import printable
from offbragg.shell.describe_ledger import describe_ledger
from offbragg.shell.kept_metadata import KeptMetadata

if TYPE_CHECKING:
    from bluesky import RunEngine
    from bluesky.callbacks.best_effort import BestEffortCallback
    from IPython.core.interactiveshell import InteractiveShell

log = logging.getLogger(__name__)


def show_news(md: object) -> None:
    """Take over what was changed in ``RE.md`` at another prompt, and warn about it."""
    if not isinstance(md, KeptMetadata):
        return
    for key, value in md.refresh().items():
        shown = value
        if isinstance(value, Mapping) and "name" in value:
            shown = f"{value['name']} {value.get('label', '')}".strip()
        now = "removed" if value is None else f"now {shown}"
        log.warning("RE.md[%r] is %s: changed at another prompt (%s)", key, now, md.changed_by())


class Latest:
    """The last value that a monitor reported; asking for it never waits for a record."""

    def __init__(self, signal: Any, units: str = "") -> None:
        self._signal = signal
        self._units = units
        self._value: Any = None
        signal.subscribe(self._take)

    def _take(self, value: Any = None, **_: Any) -> None:
        self._value = value

    def __str__(self) -> str:
        units = f" {self._units}" if self._units else ""
        if self._value is None or not self._signal.connected:
            return f"?{units}"
        return f"{float(self._value):.1f}{units}"


def prompt_text(
    md: Mapping[str, Any], reading: object, scan_id: int, notes: Sequence[str] = ()
) -> str:
    """Return what the prompt shows: sample, temperature, last run, and notes.

    Examples
    --------
    >>> prompt_text({"sample": {"name": "LSMO-140"}}, "300.0 K", 42)
    '[LSMO-140 · 300.0 K · #42]'
    >>> prompt_text({}, None, 0, ["paused"])
    '[no sample · #0 · paused]'
    """
    sample = md.get("sample")
    name = sample.get("name", "?") if isinstance(sample, Mapping) else sample or "no sample"
    parts = [str(name), *([str(reading)] if reading is not None else []), f"#{scan_id}", *notes]
    return f"[{' · '.join(parts)}]"


def _last_scan_id(config: Beamline) -> int:
    try:
        return int((config.paths.journal / "scan_id").read_text().strip() or 0)
    except (OSError, ValueError):
        return 0  # scan_ids reports it when it matters


def make_interactive(
    shell: InteractiveShell,
    RE: RunEngine,
    bec: BestEffortCallback,
    config: Beamline,
    devices: Mapping[str, Any],
) -> None:
    """Install prompt, progress bars, rows, magics, and errors without a traceback."""
    from event_model import RunRouter

    from offbragg.callbacks.progress import Bars, Rows
    from offbragg.callbacks.unpublished import Unpublished
    from offbragg.shell.describe_errors import show_errors
    from offbragg.shell.magics import HostLook, PromptMagics

    bars = Bars()
    RE.waiting_hook = bars  # type: ignore[assignment]
    RE.state_hook = bars.follow  # type: ignore[assignment]
    bec.disable_baseline()
    if not _can_plot():
        bec.disable_plots()
    # a sweep is one row; the table and plot of each point are for scans that have points
    RE.subscribe(RunRouter([lambda name, doc: ([] if "sweep" in doc else [bec], [])]))
    RE.subscribe(Rows())

    host = HostLook(config.paths.journal)
    _set_prompt(shell, RE, config, devices, host)
    PromptMagics.pbar_manager = bars  # type: ignore[assignment]
    shell.register_magics(PromptMagics)

    def ledger(line: str) -> None:
        """Print what became of every frame of a run: %ledger, %ledger -2, %ledger #42."""
        runs = line.split() or ["-1"]
        if len(runs) > 1:
            raise JournalError(f"%ledger takes one run, not {len(runs)}: {' '.join(runs)}")
        print(printable(describe_ledger(config, runs[0]), lines=True))

    shell.register_magic_function(ledger, "line", "ledger")  # type: ignore[arg-type]
    journal = config.paths.journal
    unpublished = Unpublished(lambda: read_backlog(journal).get("publish", {}).get("refused", {}))
    contradicted = Unpublished(
        lambda: read_backlog(journal).get("stack", {}).get("contradicted", {}),
        advice="Its frames are stored. Do the settings of camserver differ from beamline.toml? "
        "offbragg verify lists all contradictions.",
    )
    show_errors(shell, RE)
    shell.events.register("post_run_cell", lambda *_: show_news(RE.md))
    shell.events.register("post_run_cell", lambda *_: host.warn())
    shell.events.register("post_run_cell", unpublished)
    shell.events.register("post_run_cell", contradicted)


def _can_plot() -> bool:
    import matplotlib

    return matplotlib.get_backend().lower() not in ("agg", "template", "pdf", "svg", "ps", "cairo")


def _set_prompt(
    shell: Any,
    RE: RunEngine,
    config: Beamline,
    devices: Mapping[str, Any],
    host: Callable[[], str],
) -> None:
    from IPython.terminal.prompts import Prompts
    from pygments.token import Token

    column = config.per_frame.get("temperature")
    reading = None
    if column is not None:
        reading = Latest(find(devices, column.signal, config=config), column.units)
    last = {"scan_id": _last_scan_id(config)}
    RE.subscribe(lambda name, doc: last.update(scan_id=doc.get("scan_id", 0)), "start")

    class WithPlace(Prompts):
        def in_prompt_tokens(self) -> Any:
            notes = ["paused"] if RE.state == "paused" else []
            notes += ["host busy"] if host() else []
            place = prompt_text(RE.md, reading, last["scan_id"], notes)
            return [(Token.Prompt, f"{place} "), *super().in_prompt_tokens()]

    if hasattr(shell, "prompts"):  # a terminal; a notebook has none
        shell.prompts = WithPlace(shell)


def label_devices(devices: Mapping[str, Any]) -> None:
    """Label devices that have no label, for ``%wa`` and ``%ct``."""
    from ophyd import Device

    for device in devices.values():
        if getattr(device, "_ophyd_labels_", None):
            continue
        if hasattr(device, "position") and hasattr(device, "set"):
            axis = hasattr(device, "user_offset")
            device._ophyd_labels_ = {"motors" if axis else "sample environment"}
        elif getattr(type(device), "trigger", Device.trigger) is not Device.trigger:
            device._ophyd_labels_ = {"detectors"}
