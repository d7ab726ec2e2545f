"""Named keys of the catalog on the command line: the verb token."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from offbragg.cli.app import DATA, AsJson, Beamline, Days, app
from offbragg.cli.terminal import say

if TYPE_CHECKING:
    from offbragg.catalog.named_keys import NamedKeys


class Scope(StrEnum):
    """What a named key opens."""

    READ = "read"
    STAFF = "staff"


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
            "--scope", help="read: whatever only reads; staff: also writing and deleting."
        ),
    ] = Scope.READ,
    days: Days = 30.0,
    revoke: Annotated[bool, typer.Option("--revoke", help="Revoke the key LABEL.")] = False,
    beamline: Beamline = None,
    as_json: AsJson = False,
) -> None:
    """Create a named key that expires, or revoke one; without a label, list them.

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
        made = named.create(label, scope=scope.value, ends=ends)
        document = {"key": made, "label": label, "scope": scope.value, "ends": ends}
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
        say(f"{key.label}  {key.scope}  {state} {until}")
