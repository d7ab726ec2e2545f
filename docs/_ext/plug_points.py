"""Write explanations/plug-points.md from the protocols' docstrings: ``poe plug-points``.

The page is kept with the sources, so that it can be read without a build; a test compares it.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from offbragg import protocols
from offbragg.protocols import MAY_HAVE, members

PAGE = Path(__file__).parents[1] / "explanations" / "plug-points.md"

HEAD = """\
<!-- written by `poe plug-points` from the docstrings of src/offbragg/protocols.py: edit these -->

# Plug points

offbragg is made for a Pilatus, a phi axis and a cryostream, but it does not insist. Something
else can be put in at the places below. None needs a registry, a base class or a change to
offbragg: each is a small agreement, and Python's own import finds the rest.

## A beamline

A beamline is a `beamline.toml`. It holds record prefixes, paths, limits and, where the hardware is
of another kind, the class of a device as `"module:Class"`. The environment variable
`OFFBRAGG_BEAMLINE` names the file. See [](../how-to/another-beamline.md) and
[](../reference/configuration.md).

## How agreements are checked

A device meets an agreement by having its members: with ophyd, with ophyd-async, or with neither.
Each agreement is a protocol in `offbragg.protocols`, so a type checker can compare a class with it.

- When devices are built, each is checked before it is connected. A member that is missing or
  misspelt, a property where a method is called, a coroutine that no one awaits, or a method that
  cannot be called as plans call it is refused, with the device, the protocol and the nearest
  right name.
- A device has a role by what `[defaults]` of `beamline.toml` uses it for, and by its members.
- `offbragg doctor` shows the role of each device, and `offbragg doctor --json` all that it meets.
- The test kit `offbragg.testing` shows that it also does what it says: see
  [](../how-to/add-a-detector.md).
"""

TITLES = {
    "Detector": "A detector",
    "Axis": "An axis",
    "Flyer": "A flyer",
    "SampleEnvironment": "A sample environment",
    "Shutter": "A shutter",
    "Attenuator": "An attenuator",
    "Permit": "A permit",
}

TAIL = """\
## A value per frame

The start document's `per_frame` entry maps a column name to a data key of any stream. A key with
`by` is joined by frame number, a key without it by time. A signal becomes a column by three
lines in `beamline.toml`, `[per_frame.<name>]`; a counter that flies has a `per_frame` of its own.
So a second monitor or the pressure of a cell needs no code on the data side.
"""


def page() -> str:
    """Return the text of the page."""
    parts = [HEAD]
    for protocol, small in MAY_HAVE.items():
        parts.append(_role(protocol, small))
    parts.append(_technique())
    parts.append(TAIL)
    return "\n".join(parts)


def _role(protocol: type, small: tuple[type, ...]) -> str:
    lines = [f"## {TITLES[protocol.__name__]}", "", f"Protocol `{protocol.__name__}`. "
             f"{_text(protocol)}", ""]  # fmt: skip
    lines += ["| member | agreement |", "| --- | --- |"]
    lines += [_row(name, member) for name, member in members(protocol).items()]
    lines += ["", "It may have these as well; what belongs together comes whole or not at all.", ""]
    lines += ["| protocol | member | agreement |", "| --- | --- | --- |"]
    for each in small:
        about = _text(each, one_line=True)
        for name, member in members(each).items():
            lines.append(f"| {f'`{each.__name__}`: {about}' if about else ''} {_row(name, member)}")
            about = ""
    return "\n".join([*lines, ""])


def _technique() -> str:
    lines = [
        "## A technique",
        "",
        "A plan that makes sweeps (`rotation_scan`, `temperature_series`), and a reduction.",
        "",
        f"Protocol `Reduction`. {_text(protocols.Reduction)}",
        "",
        f"Protocol `Addable`. {_text(protocols.Addable)}",
        "",
    ]
    return "\n".join(lines)


def _row(name: str, member: object) -> str:
    called = f"`{name}`"
    if not isinstance(member, property):
        signature = inspect.signature(member)  # type: ignore[arg-type]
        bare = [
            each.replace(annotation=each.empty)
            for each in signature.parameters.values()
            if each.name != "self"
        ]
        called = f"`{name}{inspect.Signature(bare)}`"
    return f"| {called} | {_text(member, one_line=True)} |"


def _text(thing: object, *, one_line: bool = False) -> str:
    text = inspect.cleandoc(getattr(thing, "__doc__", "") or "").replace("``", "`")
    return " ".join(text.split()).replace("|", "\\|") if one_line else text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
