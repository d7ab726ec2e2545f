"""``offbragg init``: ask the IOCs of a new beamline, and write its ``beamline.toml``.

What a record knows is read from it and noted in a comment. What no record knows (wavelength,
distance, sensor) becomes a TODO line: a comment, so the key is absent, and what needs it refuses to
measure. Nothing is guessed.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from offbragg.beamline.build import set_channel_access
from offbragg.beamline.tables import ChannelAccess
from offbragg.errors import ConfigError, DeviceError
from offbragg.panels import size_named
from offbragg.printable import printable

PIXEL = 0.172  # mm, of every Pilatus
_PLUGINS = (
    "image1", "Pva1", "HDF1", "TIFF1", "JPEG1", "Stats1", "ROI1", "ROIStat1", "Proc1", "Over1",
    "Trans1", "CC1", "CB1", "Codec1", "Attr1", "BadPix1",
)  # fmt: skip
_CAM = (
    "Manufacturer_RBV", "Model_RBV", "DriverVersion_RBV", "MaxSizeX_RBV", "MaxSizeY_RBV",
    "DetectorState_RBV", "FilePath_RBV", "ThresholdEnergy_RBV",
)  # fmt: skip
_MOTOR = ("RTYP", "DESC", "EGU", "LLM", "HLM", "VELO", "VMAX", "VBAS", "ACCL", "UEIP", "SPMG")
_TAKEN = ("pilatus", "cryostream", "monitor", "shutter", "ring", "permit")
_COLUMN = 52  # where comments begin


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the new beamline is made of: prefixes, as typed."""

    detector: str
    axes: Mapping[str, str]
    """Rotation axes by name; the first is the one that sweeps turn."""
    translations: Mapping[str, str] = field(default_factory=dict)
    cryostream: str = ""
    monitor: str = ""
    shutter: str = ""
    """A prefix, or the records to write and to read, with a comma between them."""
    ring: str = ""
    """The record of the ring current."""
    name: str = ""
    data: str = "offbragg-data"
    """Root of [paths]."""


@dataclass(frozen=True, slots=True)
class Written:
    """What `write_beamline` made."""

    file: Path
    todo: tuple[str, ...]
    notes: tuple[str, ...]
    """What somebody should look at."""
    facts: Mapping[str, Any]
    """What the records said, by device."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {
            "file": str(self.file), "todo": list(self.todo), "notes": list(self.notes),
            "facts": dict(self.facts),
        }  # fmt: skip


def named_prefixes(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Read ``name=PREFIX`` pairs.

    Raises
    ------
    ConfigError
        For one that is not a pair, or a name that Python or another device cannot have.

    Examples
    --------
    >>> named_prefixes("--axis", ["phi=IOC:m1"])
    {'phi': 'IOC:m1'}
    """
    found: dict[str, str] = {}
    for text in texts:
        name, _, prefix = (part.strip() for part in text.partition("="))
        if not name.isidentifier() or not prefix:
            raise ConfigError(f"{option} {text!r} is not NAME=PREFIX, as phi=IOC:m1")
        if name in found:
            raise ConfigError(f"{option}: the name {name} is given twice")
        found[name] = prefix
    return found


def write_beamline(
    wanted: Wanted, out: Path, *, access: ChannelAccess, timeout: float = 5.0
) -> Written:
    """Ask the records, and write a ``beamline.toml``; an existing file is never overwritten.

    Parameters
    ----------
    wanted
        Prefixes.
    out
        The new file.
    access
        Where the IOCs are searched for; written into the file.
    timeout
        For all records to connect, s.

    Raises
    ------
    ConfigError
        If the file exists, or cannot be written.
    DeviceError
        If the detector, a motor or another device does not answer; nothing is written then.
    """
    for name in {**wanted.axes, **wanted.translations}:
        if name in _TAKEN or (name in wanted.axes and name in wanted.translations):
            raise ConfigError(f"the name {name} is given twice: another device is called so, too")
    if out.exists():
        raise ConfigError(f"{out} exists already, and is not overwritten\nGive another --out.")
    set_channel_access(access, str(out))
    facts = _ask_all(wanted, timeout)
    text, notes = describe(wanted, facts, access)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}") from error
    return Written(out.absolute(), tuple(unfinished(text)), tuple(notes), facts)


def unfinished(text: str) -> list[str]:
    r"""Return the keys of a ``beamline.toml`` that are still TODO, with their lines.

    Those that have no value yet; if all have one, those that are still comments.

    Examples
    --------
    >>> unfinished("# TODO wavelength =   # Å\n# TODO shape = [1, 2]\nx = 1")
    ['wavelength (line 1)']
    """
    empty: list[str] = []
    commented: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"\s*#\s*TODO\s+([\w.]+)\s*=\s*(.*)", line):
            has_value = bool(match[2]) and not match[2].startswith("#")
            (commented if has_value else empty).append(f"{match[1]} (line {number})")
    return empty or commented


# -- asking ------------------------------------------------------------------------------------


def _ask_all(wanted: Wanted, timeout: float) -> dict[str, dict[str, Any]]:
    """Read what each device's records say; refuse a device that does not answer."""
    root = re.sub(r"[^:]*:$", "", wanted.detector)
    groups: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
        "pilatus": (
            {key: f"{wanted.detector}{key}" for key in _CAM}
            | {plugin: f"{root}{plugin}:PluginType_RBV" for plugin in _PLUGINS},
            ("Manufacturer_RBV", "MaxSizeX_RBV", "MaxSizeY_RBV"),
        )
    }
    for name, prefix in {**wanted.axes, **wanted.translations}.items():
        groups[name] = ({key: f"{prefix}.{key}" for key in _MOTOR}, ("RTYP", "EGU", "VELO"))
    if wanted.cryostream:
        records = {key: f"{wanted.cryostream}{key}" for key in ("TEMP", "SETPOINT", "RTEMP")}
        groups["cryostream"] = (records, tuple(records))
    if wanted.monitor:
        records = {key: f"{wanted.monitor}{key}" for key in ("EraseStart", "NuseAll", "mca1")}
        groups["monitor"] = (records, tuple(records))
    if wanted.shutter:
        command, state = _shutter_records(wanted.shutter)
        groups["shutter"] = ({"command": command, "state": state}, ("command", "state"))
    if wanted.ring:
        groups["ring"] = ({"current": wanted.ring}, ("current",))

    every = [record for records, _ in groups.values() for record in records.values()]
    needed = [records[key] for records, keys in groups.values() for key in keys]
    values, servers = _ask(every, needed, timeout)
    facts: dict[str, dict[str, Any]] = {}
    silent: list[str] = []
    for name, (records, keys) in groups.items():
        facts[name] = {key: values[record] for key, record in records.items() if record in values}
        facts[name]["servers"] = sorted(
            {servers[record] for record in records.values() if servers.get(record)}
        )
        if missing := [records[key] for key in keys if records[key] not in values]:
            silent.append(f"{name}: {', '.join(missing)}")
    if silent:
        raise DeviceError(
            f"records do not answer within {timeout:g} s: {'; '.join(silent)}\n"
            "Nothing was written. Is the prefix right, does the IOC run, and is it among the "
            "addresses of --address-list?"
        )
    return facts


def _shutter_records(given: str) -> tuple[str, str]:
    command, comma, state = (part.strip() for part in given.partition(","))
    return (command, state) if comma else (f"{given}open", f"{given}open_RBV")


def _ask(
    records: Sequence[str], needed: Sequence[str], timeout: float
) -> tuple[dict[str, Any], dict[str, str]]:
    """Read records at once; wait for those that are needed, and a moment for the others."""
    import ophyd  # first: it chooses the libca that pyepics loads
    from epics import PV

    ophyd.get_cl()
    pvs = {record: PV(record, auto_monitor=False) for record in dict.fromkeys(records)}
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < timeout:
        there = all(pvs[record].connected for record in needed)
        if all(pv.connected for pv in pvs.values()) or (there and elapsed > 1.0):
            break
        time.sleep(0.02)
    values: dict[str, Any] = {}
    servers: dict[str, str] = {}
    for record, pv in pvs.items():
        if not pv.connected:
            continue
        text = any(word in str(pv.type) for word in ("string", "char", "enum"))
        value = pv.get(as_string=text, timeout=timeout)
        if value is not None:
            values[record] = value if isinstance(value, str) else _number(value)
            servers[record] = str(pv.host or "")
    for pv in pvs.values():
        pv.disconnect()
    return values, servers


def _number(value: Any) -> float | int | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None  # a waveform: that it values is enough
    return int(number) if number.is_integer() else number


# -- writing -----------------------------------------------------------------------------------


class _Toml:
    """Lines of a TOML file, each with its comment."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, line: str = "", comment: str = "", *, todo: bool = False) -> None:
        """Add a line; one to do is a comment itself, so that its key is absent."""
        text = f"# TODO {line}" if todo else line
        comment = printable(comment)
        self.lines.append(f"{text:{_COLUMN}} # {comment}" if comment else text)

    def key(self, name: str, value: object, comment: str, *, todo: bool = False) -> None:
        """Add a key with a value."""
        self.add(f"{name} = {json.dumps(value, ensure_ascii=False)}", comment, todo=todo)

    def missing(self, name: str, comment: str) -> None:
        """Add a key whose value is not in any record."""
        self.add(f"{name} =", comment, todo=True)

    def __str__(self) -> str:
        return "\n".join(self.lines) + "\n"


def describe(
    wanted: Wanted, facts: Mapping[str, Mapping[str, Any]], access: ChannelAccess
) -> tuple[str, list[str]]:
    """Write the text of a ``beamline.toml``, and notes on what somebody should look at.

    Parameters
    ----------
    wanted
        Prefixes.
    facts
        What the records said, by device.
    access
        Where the IOCs are searched for.
    """
    toml = _Toml()
    notes: list[str] = []
    toml.lines += [
        f"# Written by offbragg init on {datetime.now():%Y-%m-%d} from what the IOCs said.",
        '# Lines with "# TODO" are what no IOC knows. Fill in the value, then remove "# TODO ":',
        "# until then the key is absent, and what needs it refuses to measure.",
        "",
    ]
    add, key = toml.add, toml.key
    key("beamline_id", wanted.name or wanted.detector.partition(":")[0].strip(),
        "name of the beamline, in every start document")  # fmt: skip
    key("baseline", [name for name in facts if name not in ("pilatus", "monitor")],
        "devices that are read before and after each run")  # fmt: skip
    add()
    add("[paths]", "relative to this file; offbragg doctor --make-directories makes them")
    key("experiment", f"{wanted.data}/experiment", "scan files")
    key("frames", f"{wanted.data}/frames", "frame files, as this host sees them")
    key("journal", f"{wanted.data}/journal", "one journal per run")
    key("catalog", f"{wanted.data}/catalog", "the catalog's databases and key")
    key("log", f"{wanted.data}/log", "log files")
    add()
    add("[channel_access]", "what is not given here is left to the EPICS_CA_… variables")
    for name, value in access.model_dump(exclude_none=True).items():
        key(name, value, str(ChannelAccess.model_fields[name].description))
    if access.max_array_bytes is None:
        key("max_array_bytes", 20000000, "EPICS_CA_MAX_ARRAY_BYTES")
    _detector(toml, wanted, facts["pilatus"], notes)
    for name, prefix in wanted.axes.items():
        _motor(toml, name, prefix, facts[name], notes, rotates=True)
    for name, prefix in wanted.translations.items():
        _motor(toml, name, prefix, facts[name], notes, rotates=False)
    _environment(toml, wanted, facts)
    _defaults(toml, wanted)
    _geometry(toml, wanted, facts["pilatus"])
    return str(toml), notes


def _where(values: Mapping[str, Any]) -> str:
    return (
        f"served by {', '.join(values['servers'])}" if values.get("servers") else "its IOC values"
    )


def _detector(toml: _Toml, wanted: Wanted, values: Mapping[str, Any], notes: list[str]) -> None:
    shape = (int(values["MaxSizeY_RBV"]), int(values["MaxSizeX_RBV"]))
    size = size_named("Pilatus", shape)
    plugins = [plugin for plugin in _PLUGINS if plugin in values]
    model = str(values.get("Model_RBV", ""))
    toml.add()
    toml.add("[devices.pilatus]", _where(values))
    toml.key("class", "offbragg.devices.pilatus:Pilatus",
             f"the IOC says {values['Manufacturer_RBV']} {model}, driver "
             f"{values.get('DriverVersion_RBV', '?')}")  # fmt: skip
    toml.key("prefix", wanted.detector, f"DetectorState is {values.get('DetectorState_RBV', '?')}")
    if re.match(r"pilatus\s*3?\s*(x\s+)?\d+[mk]", model, re.IGNORECASE):
        toml.key("model", model, "as the IOC says; decides the readout time")
    else:
        toml.missing("model", f'"PILATUS {size}" or "PILATUS3 X {size}": decides the readout time')
    toml.missing("sensor_material", 'as "Si" or "CdTe"')
    toml.missing("sensor_thickness", "mm")
    toml.key("format", "cbf", 'or "tif"')
    toml.key("max_missing", 0, "frames that a sweep may lack and still succeed")
    toml.key(
        "trigger", "internal", 'or "ext_trigger", "mult_trigger": these need a position compare'
    )
    toml.lines.append(
        '# write_path = "…"   the folder of paths.frames as camserver sees it, if its path differs '
        f"there; FilePath is {printable(values.get('FilePath_RBV', ''))!r} now"
    )
    toml.lines.append(
        f"# plugins of this IOC, not used: {', '.join(plugins) or 'none of the usual ones'}"
    )
    if not size:
        notes.append(
            f"pilatus: no Pilatus has {shape[1]} × {shape[0]} pixels; is camserver connected?"
        )


def _motor(
    toml: _Toml,
    name: str,
    prefix: str,
    values: Mapping[str, Any],
    notes: list[str],
    *,
    rotates: bool,
) -> None:
    units = str(values["EGU"])
    toml.add()
    toml.add(f"[devices.{name}]", f"{values.get('DESC', '')!r}, {_where(values)}")
    cls = "RotationAxis" if rotates else "Translation"
    toml.key("class", f"offbragg.devices.goniometer:{cls}", f"units of the record: {units}")
    limits = f"limits {values.get('LLM', '?')} to {values.get('HLM', '?')}"
    speeds = (
        f"VELO {values['VELO']}, VBAS {values.get('VBAS', '?')}, VMAX {values.get('VMAX', '?')}"
    )
    toml.key("prefix", prefix, f"{limits}; {speeds} per s; ACCL {values.get('ACCL', '?')} s")
    if rotates and "UEIP" in values:
        encoder = values["UEIP"] == "Yes"
        source = "read-backs come from an encoder" if encoder else "read-backs are counted steps"
        toml.key("encoder", encoder, f"UEIP is {values['UEIP']}: {source}")
    if values.get("RTYP") != "motor":
        notes.append(f"{name}: {prefix} is a {values['RTYP']} record, not a motor")
    if rotates and not units.lower().startswith("deg"):
        notes.append(f"{name}: the units of {prefix} are {units!r}: is it a rotation, in degrees?")
    if values.get("LLM") == values.get("HLM"):
        notes.append(f"{name}: {prefix} has no limits (LLM and HLM are equal)")
    if values.get("SPMG", "Go") != "Go":
        notes.append(
            f"{name}: {prefix}.SPMG is {values['SPMG']}: it does not move until that is Go"
        )


def _environment(toml: _Toml, wanted: Wanted, facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Write what is beside detector and axes: temperature, beam."""
    if wanted.cryostream:
        values = facts["cryostream"]
        toml.add()
        toml.add("[devices.cryostream]", f"{values['TEMP']} K now, {_where(values)}")
        toml.key("class", "offbragg.devices.cryostream:Cryostream",
                 "or a LakeShore: see how-to/add-a-sample-environment")  # fmt: skip
        toml.key("prefix", wanted.cryostream, "settle = { … } says when a temperature is reached")
        toml.add()
        toml.add("[per_frame.temperature]", "a column of each frame")
        toml.key("signal", "cryostream.temperature", "device.signal")
        toml.key("units", "K", "as the signal gives it")
    if wanted.ring:
        toml.add()
        toml.add("[devices.ring]", f"{facts['ring']['current']} mA now, {_where(facts['ring'])}")
        toml.key("class", "offbragg.devices.beam:Ring", "the storage ring")
        toml.add(f"records = {{ current = {json.dumps(wanted.ring)}, lifetime = false }}",
                 "names after the prefix, which is empty; false: there is none")  # fmt: skip
    if wanted.shutter:
        command, state = _shutter_records(wanted.shutter)
        toml.add()
        toml.add("[devices.shutter]", f"{state} is {facts['shutter']['state']} now")
        toml.key("class", "offbragg.devices.beam:Shutter", "1 opens, 0 closes")
        if "," in wanted.shutter:
            toml.add(
                f"records = {{ command = {json.dumps(command)}, state = {json.dumps(state)} }}",
                "written, and read back",
            )
        else:
            toml.key("prefix", wanted.shutter, "open is written, open_RBV read back")
    if wanted.monitor:
        toml.add()
        toml.add("[devices.monitor]", _where(facts["monitor"]))
        toml.key("class", "offbragg.devices.beam:FrameMonitor", "one channel per frame")
        toml.key("prefix", wanted.monitor, "a multichannel scaler")
    if wanted.ring:
        toml.add()
        toml.add("[devices.permit]", "whether there is beam, for plans that wait for it")
        toml.key("class", "offbragg.devices.beam:BeamPermit", "made of the devices above")
        for part in ("ring", "shutter", "monitor"):
            if part in facts:
                toml.add(f'{part} = {{ device = "{part}" }}', f"remove it together with {part}")
        toml.missing("ring_threshold", "least ring current with beam, mA")


def _defaults(toml: _Toml, wanted: Wanted) -> None:
    """Write what plans use where they are given nothing: all that has just been named."""
    toml.add()
    toml.add("[defaults]", "what plans use unless they are given something else")
    toml.key("detector", "pilatus", "rotation_scan(sweep) is enough then")
    toml.key("axis", next(iter(wanted.axes)), "where stills stand; a sweep names its own")
    if wanted.cryostream:
        toml.key("temperature", "cryostream", "what temperature_series sets")
    if wanted.monitor:
        toml.key("flyers", ["monitor"], "and the position compare, if the detector waits for it")
    if wanted.shutter:
        toml.key("shutter", "shutter", "open during a sweep")
    if wanted.ring:
        toml.key("permit", "permit", "whether there is beam")


def _geometry(toml: _Toml, wanted: Wanted, values: Mapping[str, Any]) -> None:
    todo: Callable[..., None] = toml.missing
    shape = [int(values["MaxSizeY_RBV"]), int(values["MaxSizeX_RBV"])]
    toml.add()
    toml.lines.append("# The lab frame is that of NeXus: z along the beam, y up, x = y × z.")
    toml.add("[geometry]", "a sweep without it is refused", todo=True)
    todo("wavelength", "Å")
    toml.add("[geometry.panel]", "where the detector stands", todo=True)
    todo("origin", "[x, y, z] of the outer corner of pixel (0, 0), mm: beam centre and distance")
    todo("fast", "[x, y, z], unit vector along a row; [-1.0, 0.0, 0.0] faces the beam")
    todo("slow", "[x, y, z], unit vector along a column; [0.0, -1.0, 0.0] points down")
    toml.key("pixel_size", [PIXEL, PIXEL], "mm, of every Pilatus", todo=True)
    toml.key("shape", shape, "slow, fast: MaxSizeY and MaxSizeX of the IOC", todo=True)
    for name in wanted.axes:
        toml.add("[[geometry.axes]]", "innermost (at the sample) first", todo=True)
        toml.key("name", name, "the device", todo=True)
        todo("vector", "[x, y, z], unit vector about which it turns, right-handed")
