"""Named keys of the catalog on the command line: the verb token."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offbragg.cli.app import DATA, AsJson, Beamline, Days, app
from offbragg.cli.terminal import say

if TYPE_CHECKING:
    from offbragg.catalog.named_keys import NamedKeys


class Scope(StrEnum):
    """What a named key opens."""

    READ = "read"
    ANNOTATE = "annotate"
    BEAMLINE = "beamline"
    STAFF = "staff"
    OPERATOR = "operator"


@app.command(rich_help_panel=DATA)
def token(
    label: Annotated[
        str | None,
        typer.Argument(
            metavar="LABEL", help="Who uses the key, and where.", show_default="list the keys"
        ),
    ] = None,
    scope: Annotated[
        Scope,
        typer.Option(
            "--scope",
            help="read: what its person or proposals have; annotate: also notes; beamline: "
            "reading all; staff: also writing and deleting; operator: only whether services work.",
        ),
    ] = Scope.READ,
    person: Annotated[
        str,
        typer.Option(
            "--person", metavar="NAME", help="Whose key it is, as the file of people has them."
        ),
    ] = "",
    proposal: Annotated[
        list[str] | None,
        typer.Option(
            "--proposal", metavar="P", help="Only runs of this proposal; may be repeated."
        ),
    ] = None,
    days: Days = 30.0,
    revoke: Annotated[bool, typer.Option("--revoke", help="Revoke the key LABEL.")] = False,
    beamline: Beamline = None,
    as_json: AsJson = False,
) -> None:
    """Create a named key that expires, or revoke one; without a label, list them.

    Where the catalog has people ([catalog] people), a key that reads or annotates needs --person or
    --proposal. One of a person opens what this person may see at that moment.

    Give each person and each program a key of its own. The key is printed once and kept nowhere:
    the catalog keeps its hash. A key that is revoked opens nothing from then on, nor does the
    cookie of a browser that it let in; the server need not be restarted.
    """
    from offbragg.beamline.config import load
    from offbragg.catalog.named_keys import NamedKeys

    if revoke and label is None:
        raise typer.BadParameter("--revoke needs the LABEL of the key; offbragg token lists them")
    config = load(beamline)
    named = NamedKeys(config.paths.catalog, config.read_key())
    if label is None:
        _list(named, as_json=as_json)
    elif revoke:
        named.revoke(label)
        say(json.dumps({"revoked": label}) if as_json else f"{label}: revoked")
    else:
        ends = time.time() + 86400 * days
        _check_owner(config.catalog.people, scope, person, proposal or [])
        owner = {"person": person, "proposals": proposal or []}
        made = named.create(label, scope=scope.value, ends=ends, **owner)
        document = {"key": made, "label": label, "scope": scope.value, "ends": ends, **owner}
        say(json.dumps({**document, "address": config.public_url}) if as_json else made)


def _list(named: NamedKeys, *, as_json: bool) -> None:
    keys = named.known()
    if as_json:
        say(json.dumps({"keys": [asdict(key) for key in keys]}))
        return
    if not keys:
        say("no named keys")
    for key in keys:
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(key.ends))
        state = "expired" if key.ends <= time.time() else "expires"
        whose = f"  {key.person}" * bool(key.person) + "".join(f"  {p}" for p in key.proposals)
        say(f"{key.label}  {key.scope}{whose}  {state} {until}")


def _check_owner(file: Path | None, scope: Scope, person: str, proposals: list[str]) -> None:
    """Refuse a key that would open nothing."""
    from offbragg.catalog.people import read_people
    from offbragg.errors import CatalogError

    if file is None:
        if person:
            raise CatalogError(
                f"there is no person {person}: the catalog has no people\n"
                "[catalog] people in beamline.toml names their file."
            )
        return
    people = read_people(file)
    if person and person not in people.people:
        raise CatalogError(f"there is no person {person}\nThe file of people is {file}.")
    if unknown := [one for one in proposals if one not in people.proposals]:
        raise CatalogError(
            f"there is no proposal {', '.join(unknown)}\nThe file of people is {file}."
        )
    if scope in (Scope.READ, Scope.ANNOTATE) and not (person or proposals):
        raise CatalogError(
            f"a key that may only {scope} needs an owner where the catalog has people\n"
            "Give --person NAME, or --proposal P; --scope beamline reads all runs."
        )
