"""People of the catalog on the command line: the verb people."""

from __future__ import annotations

import getpass
import json
import sys
from typing import Annotated

import typer

from offbragg.cli.app import DATA, AsJson, Beamline, app
from offbragg.cli.terminal import say


@app.command(rich_help_panel=DATA)
def people(
    make_hash: Annotated[
        bool,
        typer.Option(
            "--hash",
            help="Ask for a password, or read it from standard input, and print its hash instead.",
        ),
    ] = False,
    beamline: Beamline = None,
    as_json: AsJson = False,
) -> None:
    """Check the catalog's file of people, and list who sees which proposals.

    The file is that of [catalog] people in beamline.toml. It is edited by hand, or written by a
    program of the facility; a running server reads it again when it has changed. A wrong file lets
    nobody in, so check it here first.
    """
    from offbragg.catalog.passwords import hash_password
    from offbragg.catalog.people import read_people
    from offbragg.errors import ConfigError

    if make_hash:
        made = hash_password(_password())
        say(json.dumps({"password": made}) if as_json else f'password = "{made}"')
        return
    from offbragg.beamline.config import load

    config = load(beamline)
    if config.catalog.people is None:
        raise ConfigError(
            f"the catalog has no people: catalog.people is not set in {config.file}\n"
            "Whoever has a key for reading sees all runs."
        )
    known = read_people(config.catalog.people)
    listed = []
    for name, person in known.people.items():
        viewer = known.viewer(name)
        assert viewer is not None
        proposals = ["*"] if viewer.sees_everything else sorted(viewer.sees)
        ways = [way for way in ("password", "oidc") if getattr(person, way)]
        listed.append(
            {"name": name, "role": person.role, "proposals": proposals, "logs_in_by": ways}
        )
    if as_json:
        say(json.dumps({"file": str(config.catalog.people), "people": listed}))
        return
    for each in listed:
        what = "all" if each["proposals"] == ["*"] else ", ".join(each["proposals"]) or "none"
        ways = " or ".join(each["logs_in_by"]) or "a key only"
        say(f"{each['name']}  {each['role']}  {ways}  proposals: {what}")


def _password() -> str:
    """Read a password from the terminal, twice, or a line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if password != getpass.getpass("Again: "):
        raise typer.BadParameter("the two passwords differ")
    return password
