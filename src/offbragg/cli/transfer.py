"""Commands that send what was measured to another host, and receive it there."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offbragg.cli.app import DATA, AsJson, Beamline, WithParent, app, log_to_stderr, until_stopped
from offbragg.cli.numbers import Number
from offbragg.cli.terminal import progress as progress_bar
from offbragg.cli.terminal import say

if TYPE_CHECKING:
    from offbragg.beamline.config import Beamline as Config
    from offbragg.transfer.receive import Received
    from offbragg.transfer.sent import Sent

_MAKE_KEY = typer.Option(
    "--make-key", metavar="FILE", help="Write a new key into this file, print its public half, end."
)
_NEEDED_TO_SEND = "HOST:PORT, --key and --receiver are needed, or a table [send] in beamline.toml"
_NEEDED_TO_RECEIVE = "FOLDER, --key and --senders are needed, or a table [receive] in beamline.toml"
_KEY = typer.Option("--key", metavar="FILE", help="Key of this side, as --make-key wrote it.")


@app.command(rich_help_panel=DATA)
def send(
    address: Annotated[
        str | None, typer.Argument(metavar="[HOST:PORT]", help="Where offbragg receive listens.")
    ] = None,
    key: Annotated[Path | None, _KEY] = None,
    receiver: Annotated[
        str | None,
        typer.Option("--receiver", metavar="KEY", help="Public key of the receiver, 64 digits."),
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option("--journal", metavar="FOLDER", help="Journals; default: of the beamline."),
    ] = None,
    frames: Annotated[
        Path | None,
        typer.Option("--frames", metavar="FOLDER", help="Frame files; default: of the beamline."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate",
            metavar="MB/S",
            help="Limit for frames on the link, MB/s (10⁶ bytes).",
            parser=Number(0, 1e6, above=True, unit="MB/s"),
            show_default="no limit",
        ),
    ] = None,
    patience: Annotated[
        float,
        typer.Option(
            "--patience",
            metavar="SECONDS",
            parser=Number(0, 86400, unit="s"),
            help="Time limit for a frame file that is not there, s: then its journal goes on.",
        ),
    ] = 10.0,
    once: Annotated[
        bool, typer.Option("--once", help="Send every run in the journal, then end.")
    ] = False,
    make_key: Annotated[Path | None, _MAKE_KEY] = None,
    beamline: Beamline = None,
    as_json: AsJson = False,
    with_parent: WithParent = None,  # its callback has done what it asks for
) -> None:
    """Send the runs of a beamline and their frames to another host, while they are measured.

    On the other host offbragg receive writes them into a folder, in which offbragg stack, live and
    serve work as they do here. Everything is encrypted and checked, and counts as sent once it is
    on the far disk. Either side may be killed at any moment and restarted: it goes on with what is
    there. Nothing at the beamline waits for it.

    Once: offbragg send --make-key near.key prints a public key, which goes into the receiver's list
    of senders; offbragg receive --make-key far.key prints the one for --receiver. Then:

    offbragg send far.example.org:5599 --key near.key --receiver 0123…

    What is not given comes from the table [send] of beamline.toml.

    With --once it ends when every run in the journal is on the far disk; a run that is being
    measured is followed to its end.

    Exit code 1: the receiver refused something. 12: the two cannot talk.
    """
    if make_key is not None:
        _print_new_key(make_key)
        return
    thresholds = None
    if None in (address, key, receiver, journal, frames):
        config = _config(beamline, _NEEDED_TO_SEND if None in (address, key, receiver) else "")
        journal, frames = journal or config.paths.journal, frames or config.paths.frames
        thresholds = config.thresholds
        if (table := config.send) is not None:
            address, key = address or table.to, key or table.key
            receiver, rate = receiver or table.receiver, rate or table.rate
    if address is None or key is None or receiver is None or journal is None or frames is None:
        raise typer.BadParameter(_NEEDED_TO_SEND)
    from offbragg.transfer.keys import read_key, read_public
    from offbragg.transfer.send import Sender

    sender = Sender(
        _address(address), read_key(key), read_public(receiver), journal=journal, frames=frames,
        rate=None if rate is None else rate * 1e6, patience=patience, thresholds=thresholds,
    )  # fmt: skip
    with until_stopped() as stop, progress_bar("frames", quiet=as_json) as bar:
        log_to_stderr()

        def show(sent: Sent) -> None:
            bar(sent.files, sent.files + sent.waiting)

        sent = sender.run(stop, once=once, progress=show)
    _print(
        sent, as_json,
        f"{sent.files} files are on the far disk ({sent.bytes / 1e6:.1f} MB, "
        f"{sent.link_bytes / 1e6:.1f} MB on the link), "
        f"{sent.runs} whole runs, {sent.waiting} frames are not there, {sent.refused} refused, "
        f"{sent.damaged} damaged journals are not sent",
    )  # fmt: skip
    if sent.refused or sent.damaged:
        raise typer.Exit(1)


@app.command(rich_help_panel=DATA)
def receive(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="Where frames/ and journal/ go.")
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            metavar="ADDRESS:PORT",
            help="Where to listen; *:5599 for all.",
            show_default="127.0.0.1:5599",
        ),
    ] = None,
    key: Annotated[Path | None, _KEY] = None,
    senders: Annotated[
        Path | None,
        typer.Option(
            "--senders", metavar="FILE", help="Who may send: a public key and a name on each line."
        ),
    ] = None,
    make_key: Annotated[Path | None, _MAKE_KEY] = None,
    beamline: Beamline = None,
    as_json: AsJson = False,
    with_parent: WithParent = None,  # its callback has done what it asks for
) -> None:
    """Receive runs and their frames that offbragg send sends from other hosts.

    Frames go to FOLDER/frames and journals to FOLDER/journal; name these two as the paths frames
    and journal in the beamline.toml of this host, and run offbragg stack, live and serve with it. A
    file is acknowledged when it is on the disk under its name and its SHA-256 is that of the
    sender. No file is ever overwritten, and none is written outside of FOLDER.

    Several senders may send at a time, if their public keys are in --senders; a line that is added
    is heeded at once. At most 34 MB of frames are on their way at a time, however fast they are.

    What is not given comes from the table [receive] of beamline.toml: FOLDER is then the one that
    paths.frames and paths.journal are in.

    It can be killed at any moment and restarted; the senders go on with what is on this disk.

    Exit code 12: another one writes into FOLDER, or the address cannot be used.
    """
    if make_key is not None:
        _print_new_key(make_key)
        return
    if folder is None or key is None or senders is None:
        config = _config(beamline, _NEEDED_TO_RECEIVE)
        if (table := config.receive) is None:
            raise typer.BadParameter(_NEEDED_TO_RECEIVE)
        folder, listen = folder or config.receiving_folder(), listen or table.listen
        key, senders = key or table.key, senders or table.senders
    from offbragg.transfer.keys import Senders, read_key
    from offbragg.transfer.receive import Receiver

    receiver = Receiver(
        folder, _address(listen or "127.0.0.1:5599"), read_key(key), Senders(senders)
    )
    with until_stopped() as stop, progress_bar("received files", quiet=as_json) as bar:
        log_to_stderr()

        def ready(where: str) -> None:
            say(f"listening at {where.removeprefix('tcp://')}", file=sys.stderr)

        def show(received: Received) -> None:
            bar(received.files, received.files + receiver.open_files)

        received = receiver.run(stop, ready=ready, progress=show)
    _print(
        received, as_json,
        f"{received.files} files ({received.bytes / 1e6:.1f} MB, "
        f"{received.link_bytes / 1e6:.1f} MB on the link), {received.lines} lines of journals, "
        f"{received.runs} whole runs; {received.damaged} came damaged and were sent "
        f"again, {received.refused} refused",
    )  # fmt: skip


def _config(beamline: Path | None, needed: str) -> Config:
    """Read the beamline's file; ``needed`` is what else would do, if there is none."""
    from offbragg.beamline.config import VARIABLE, load  # an extra, see pyproject.toml

    if needed and beamline is None and not os.environ.get(VARIABLE):
        raise typer.BadParameter(needed)
    return load(beamline)


def _address(text: str) -> str:
    return text if "://" in text else f"tcp://{text}"


def _print_new_key(path: Path) -> None:
    from offbragg.transfer.keys import make_key

    say(make_key(path).public)


def _print(done: Any, as_json: bool, text: str) -> None:
    say(json.dumps(dataclasses.asdict(done)) if as_json else text)
