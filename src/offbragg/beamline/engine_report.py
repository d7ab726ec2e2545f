"""What the RunEngine's process says of itself, in a file beside the journal.

A thread of its own writes it, at most twice a second, from what documents, plans and devices have
left for it. The RunEngine waits for nothing of this, and a disk or an IOC that hangs only makes
the report old.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from offbragg.beamline.config import Beamline
from offbragg.callbacks.engine_state import EngineState
from offbragg.errors import ConfigError
from offbragg.files.engine_file import engine_file
from offbragg.files.held_file import HeldFile
from offbragg.plans.in_flight import InFlight

if TYPE_CHECKING:
    from bluesky import RunEngine

log = logging.getLogger(__name__)

EVERY = 0.5
"""Time between two looks, s."""

_AGAIN = 2.0  # s after which the same is written again: its age shows that the process lives
_POLL = 1.5  # s between two readings of the instruments
_FRESH = 3.0  # s for which a value from a document needs no reading
_SILENT = 15.0  # s until an instrument that did not answer is read again

Read = Callable[[], dict[str, Any] | None]


def report_engine(RE: RunEngine, config: Beamline, devices: Mapping[str, Any]) -> None:
    """Let a RunEngine say what it does, for as long as it exists.

    Parameters
    ----------
    RE
        The RunEngine; its other preprocessors must be there already.
    config, devices
        What `load` and `build_devices` gave.
    """
    documents, plans = EngineState(), InFlight()
    RE.subscribe(documents)
    RE.preprocessors.append(plans.preprocessor)
    permit = devices.get(config.defaults.permit or "")
    report = EngineReport(
        weakref.ref(RE), documents, plans, HeldFile(engine_file(config.paths.journal)),
        instruments=instruments_of(config, devices), permit=permit,
    )  # fmt: skip
    report.start()


class EngineReport:
    """Writes the report while its RunEngine exists.

    Parameters
    ----------
    engine
        Returns the RunEngine, or None once it is gone.
    documents, plans
        What has followed its documents and its plans.
    file
        Where the report goes.
    instruments
        Name → a function that reads a value, or returns None.
    permit
        Knows whether there is beam, and why not; None: always.
    """

    def __init__(
        self,
        engine: Callable[[], Any],
        documents: EngineState,
        plans: InFlight,
        file: HeldFile,
        *,
        instruments: Mapping[str, Read],
        permit: Any = None,
    ) -> None:
        self._engine = engine
        self._documents = documents
        self._plans = plans
        self._file = file
        self._instruments = instruments
        self._permit = permit
        self._read: dict[str, dict[str, Any]] = {}
        self._state, self._since = "", time.time()
        self._last: dict[str, Any] = {}
        self._written = 0.0
        self._ended = threading.Event()

    def start(self) -> None:
        """Start the threads."""
        import ophyd

        threading.Thread(target=self._write, name="engine-report", daemon=True).start()
        if self._instruments:
            # may use Channel Access; apart from the other, since an IOC may let it wait
            reader = ophyd.get_cl().thread_class(target=self._poll, name="engine-values")
            reader.daemon = True
            reader.start()

    def _write(self) -> None:
        while (RE := self._engine()) is not None:
            try:
                self.look(RE)
            except Exception:  # a process that is ending, or whatever a plan has put there
                log.debug("the RunEngine's state is not understood", exc_info=True)
            del RE  # else it would never be gone
            time.sleep(EVERY)
        self._ended.set()
        self._file.close()

    def look(self, RE: Any) -> None:
        """Write what has changed, and now and then what has not."""
        report = self._report(RE)
        now = time.monotonic()
        if report != self._last or now - self._written >= _AGAIN:
            self._file.write({"time": time.time(), "pid": os.getpid(), **report})
            self._last, self._written = report, now

    def _report(self, RE: Any) -> dict[str, Any]:
        state, waits = self._doing(RE)
        if state != self._state:
            self._state, self._since = state, time.time()
        if state == "idle":
            self._documents.finish()
        announced = self._plans.announced
        return {
            "state": state,
            "since": self._since,
            "plan": self._documents.plan or announced.get("plan_name") or "",
            "run": self._documents.run(),
            "series": self._documents.series(),
            "waits": waits,
            "values": self._values(),
        }

    def _doing(self, RE: Any) -> tuple[str, list[str]]:
        """Return the state in one word, and what is waited for."""
        state = str(RE.state)
        if state == "paused":
            return "paused", ["paused: RE.resume() continues, RE.stop() ends the plan"]
        if state in ("idle", "panicked"):
            return "idle", []
        tripped = [each for each in tuple(RE.suspenders) if each.tripped]
        if tripped:
            return "suspended", [str(getattr(each, "_tripped_message", "") or each)
                                 for each in tripped]  # fmt: skip
        waits = self._plans.waits()
        if self._documents.run() is None and (lack := self._lacks_beam()):
            waits.append(lack)
        return "measuring", waits

    def _lacks_beam(self) -> str:
        if not hasattr(self._permit, "reasons"):
            return ""
        with suppress(Exception):
            return "; ".join(f"no beam: {why}" for why in self._permit.reasons())
        return ""

    def _values(self) -> dict[str, dict[str, Any]]:
        values = {name: dict(value) for name, value in self._read.items()}
        for name, known in self._documents.values().items():
            read = values.get(name, {})
            if known["time"] >= read.get("time", 0.0):
                values[name] = {**read, **known, "unit": known["unit"] or read.get("unit", "")}
        return values

    def _poll(self) -> None:
        """Read the instruments again and again; documents bring the same while a run is open."""
        again: dict[str, float] = {}
        while not self._ended.wait(_POLL):
            fresh = self._documents.values()
            for name, read in self._instruments.items():
                now = time.time()
                if again.get(name, 0.0) > now:
                    continue
                if name in fresh and now - fresh[name]["time"] < _FRESH and name in self._read:
                    continue
                try:
                    found = {**(read() or {})}
                except Exception:  # an instrument that does not answer, or is gone
                    found = {}
                if found:
                    self._read[name] = {**found, "time": time.time()}
                else:
                    again[name] = now + _SILENT


def instruments_of(config: Beamline, devices: Mapping[str, Any]) -> dict[str, Read]:
    """Find what to read of the instruments when no run records it; none of it needs to be there.

    Parameters
    ----------
    config, devices
        What `load` and `build_devices` gave.
    """
    from offbragg.beamline.build import find

    def found(path: str) -> Any:
        try:
            return find(devices, path, config=config)
        except ConfigError:  # whoever needs it says so
            return None

    reads: dict[str, Read] = {}
    defaults = config.defaults
    for name in ("temperature", "ring", "monitor"):
        column = config.per_frame.get(name)
        if column is not None and (signal := found(column.signal)) is not None:
            label = column.signal.partition(".")[0]
            reads[name] = _reading(signal, label, column.units)
    if (
        "ring" not in reads
        and config.suspend is not None
        and (signal := found(config.suspend.signal)) is not None
    ):
        reads["ring"] = _reading(signal, config.suspend.signal.partition(".")[0], "")
    if (cooler := devices.get(defaults.temperature or "")) is not None:
        reads["temperature"] = _of_cooler(cooler, reads.get("temperature"))
    if (axis := devices.get(defaults.axis or "")) is not None:
        reads["phi"] = lambda: {"value": float(axis.position), "unit": "°", "label": axis.name}
    shutter = devices.get(defaults.shutter or "")
    if shutter is not None and hasattr(shutter, "is_open"):
        reads["shutter"] = lambda: {
            "value": "open" if shutter.is_open else "closed", "unit": "", "label": shutter.name
        }  # fmt: skip
    return reads


def _reading(signal: Any, label: str, unit: str) -> Read:
    def read() -> dict[str, Any] | None:
        if not getattr(signal, "connected", True):
            return None
        return {"value": float(signal.get()), "unit": unit, "label": label}

    return read


def _of_cooler(cooler: Any, of_column: Read | None) -> Read:
    """Read a temperature with its set point and the window in which it has to stay."""

    def read() -> dict[str, Any] | None:
        found = of_column() if of_column is not None else None
        if found is None:
            signal = getattr(cooler, "temperature", None)
            if signal is None or not getattr(signal, "connected", True):
                return None
            found = {"value": float(signal.get()), "unit": "K"}
        asked = getattr(cooler, "asked", None)
        if asked is None and getattr(cooler, "asked_signal", None) is not None:
            asked = cooler.read_asked()
        window = getattr(getattr(cooler, "settle", None), "tolerance", None)
        return {**found, "label": cooler.name, "set": asked, "window": window}

    return read
