"""Commands about measured data: serve, key, verify, rebuild."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offbragg.cli.app import (
    DATA,
    AsJson,
    Beamline,
    Days,
    Ready,
    WithParent,
    app,
    log_to_stderr,
    until_stopped,
)
from offbragg.cli.terminal import progress as progress_bar
from offbragg.cli.terminal import say
from offbragg.errors import CatalogError, OffbraggError, ScanFileError
from offbragg.ledger import describe_problems
from offbragg.printable import printable

if TYPE_CHECKING:
    from offbragg.recovery.verify import Verdict


@app.command(rich_help_panel=DATA)
def serve(
    beamline: Beamline = None,
    reader: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            min=1,
            max=65535,
            help="Only answer readers, at this port, beside the process that writes; needs "
            "PostgreSQL.",
        ),
    ] = None,
    ready: Ready = None,
    with_parent: WithParent = None,  # its callback has done what it asks for
) -> None:
    """Serve the catalog over HTTP (Tiled); its API key is in the configured key file."""
    from offbragg.beamline.config import load
    from offbragg.catalog.server import serve as serve_catalog
    from offbragg.now import BeamlineNow

    config = load(beamline)
    log_to_stderr()
    now = BeamlineNow(config)
    serve_catalog(
        config.paths.catalog,
        [config.paths.experiment, config.paths.frames],
        host=config.catalog.host,
        port=config.catalog.port if reader is None else reader,
        ready=ready,
        allow_origins=config.catalog.allow_origins,
        database=config.catalog.database,
        adopted=config.catalog.adopted,
        reader=reader is not None,
        trusted_proxies=config.catalog.trusted_proxies,
        look=now,
        people=config.catalog.people,
        begun=now.has_begun,
        started=lambda url: _print_page(config, config.catalog.address or url),
    )


def _print_page(config: Any, url: str) -> None:
    from offbragg.catalog.one_time import describe_page

    if config.catalog.people is not None:
        say(f"page      {url}/live  (people log in)", file=sys.stderr)
        return
    where = describe_page(
        config.paths.catalog, url, beamline=config.file, terminal=sys.stderr.isatty()
    )
    say(where, file=sys.stderr)


@app.command(rich_help_panel=DATA)
def key(
    days: Days = 30.0,
    link: Annotated[
        bool,
        typer.Option(
            "--link",
            help="Print a link to the page instead: it lets one browser in, once, within 10 min.",
        ),
    ] = False,
    beamline: Beamline = None,
    as_json: AsJson = False,
) -> None:
    """Create a read-only key that expires.

    Share this key, not the file 'key', which grants writing and deleting. It cannot be revoked on
    its own: remove the file 'key' and restart the catalog, which invalidates all keys.

    The key alone goes to stdout; the address and the lines for Python go to stderr.
    """
    from offbragg.beamline.config import load
    from offbragg.catalog.authentication import reading_key

    config = load(beamline)
    if config.catalog.people is not None:
        raise CatalogError(
            "a key without a name opens nothing where the catalog has people\n"
            "offbragg token LABEL --person NAME creates one for a person; --scope beamline one "
            "that reads all runs."
        )
    ends = time.time() + 86400 * days
    if link:
        from offbragg.catalog.one_time import MINUTES, create_link

        address = create_link(config.paths.catalog, config.public_url, days=days)
        until = time.time() + 60 * MINUTES
        print(json.dumps({"link": address, "ends": until}) if as_json else address)
        return
    made = reading_key(config.read_key(), ends=ends)
    if as_json:
        print(json.dumps({"key": made, "ends": ends, "address": config.public_url}))
        return
    say(made)
    where = config.catalog
    until = time.strftime("%a %d %b %Y %H:%M", time.localtime(ends))
    tunnel = ""
    if not where.address and where.host in ("127.0.0.1", "localhost", "::1"):
        tunnel = (
            f"\n\nFrom another host, first: ssh -L {where.port}:127.0.0.1:{where.port} "
            f"{socket.gethostname()}"
        )
    say(
        f"read-only, expires {until}; at {config.public_url}\n\nIn Python:\n\n"
        "import offbragg\n"
        f'catalog = offbragg.connect("{config.public_url}", "{made}")\n'
        f"catalog.latest(){tunnel}",
        file=sys.stderr,
    )


@app.command(rich_help_panel=DATA)
def verify(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE|UID", help="Scan files, or uids of runs."),
    ] = None,
    beamline: Beamline = None,
    every: Annotated[
        bool, typer.Option("--all", help="Verify the scan files of all runs.")
    ] = False,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also read the pixels of all frames and frame files; slow."),
    ] = False,
    catalog: Annotated[
        bool, typer.Option("--catalog/--no-catalog", help="Compare with the catalog.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Compare scan files with their checksums, ledger, journal, frame files and catalog.

    A changed byte anywhere in a finished file is found, and the frame that holds it is named.
    Journal and catalog are compared only if a beamline is given. Frames that the ledger lists as
    missing or rejected are shown; they are not a problem of the file.

    Exit code 0: every file holds what was measured. 1: at least one does not, or is not finished;
    each problem is listed. 6: at least one could not be checked, and no other problem was found.
    """
    from offbragg.files.examine import Examiner
    from offbragg.recovery.verify import all_scan_files, scan_file_of_run
    from offbragg.recovery.verify import verify as check

    config = None
    if beamline is not None or "OFFBRAGG_BEAMLINE" in os.environ:
        from offbragg.beamline.config import load

        config = load(beamline)
    if every == bool(what):
        raise typer.BadParameter("give scan files or uids, or --all")
    if every and config is None:
        raise typer.BadParameter("--all needs a beamline: --beamline FILE")
    names: list[str | Path] = list(what or ())
    journal, frames, connect = None, None, None
    if config is not None:
        journal, frames = config.paths.journal, config.paths.frames
        if every:
            names += all_scan_files(journal, config.paths.experiment)
        if catalog:
            connect = _once(config.connect_catalog)
    verdicts: list[dict[str, Any]] = []
    code = 0
    with progress_bar("checking", quiet=as_json) as progress, Examiner() as examiner:
        for name in names:
            path = Path(name)
            try:
                if not path.exists():
                    if config is None:
                        raise ScanFileError(
                            f"{name} is not a file, and no beamline is given to find a run in\n"
                            "Give the path of a scan file, or --beamline FILE and a run's uid."
                        )
                    path = scan_file_of_run(
                        str(name), journal=config.paths.journal, experiment=config.paths.experiment
                    )
                verdict = check(
                    path,
                    journal=journal,
                    frames=frames,
                    catalog=connect,
                    deep=deep,
                    examiner=examiner,
                    progress=progress,
                )
            except OffbraggError as error:
                verdicts.append({"path": str(path), "ok": False, "error": str(error)})
                say(f"offbragg: {error}", file=sys.stderr)
                code = code or error.exit_code
                continue
            verdicts.append(verdict.to_dict())
            if not as_json:
                _print_verdict(verdict)
            if not verdict.ok:
                code = 1
    if as_json:
        print(json.dumps({"ok": code == 0, "files": verdicts}))
    raise typer.Exit(code)


def _once(connect: Callable[[], Any]) -> Callable[[], Any]:
    """Connect at the first call; later calls return that connection or raise that error."""
    known: list[Any] = []

    def connected() -> Any:
        if not known:
            try:
                known.append(connect())
            except OffbraggError as error:
                known.append(error)
        if isinstance(known[0], OffbraggError):
            raise known[0]
        return known[0]

    return connected


def _print_verdict(verdict: Verdict) -> None:
    from offbragg.alarms.disk import describe_bytes

    counts = ", ".join(f"{n} {status}" for status, n in verdict.frames.items() if n)
    say(f"{verdict.path}\nrun {verdict.run}\nframes: {counts}")
    if verdict.ended:
        say(f"ended: {printable(verdict.ended)}")
    say(f"checksums: {verdict.checked} compared, {verdict.unchecked} without one")
    say(f"digest: {verdict.digest}")
    if (offset := verdict.angles.get("offset")) is not None:
        sigma = verdict.angles["sigma"]
        known = "" if sigma is None else f", σ {sigma:.4f}"
        sources = ", ".join(f"{n} {source}" for source, n in verdict.angles["sources"].items())
        say(f"angles: {sources}; at most {offset:+.4f} degree from those requested{known}")
    if verdict.catalog in ("agrees", "differs"):
        say(f"catalog: {verdict.catalog}")
    say(f"{describe_bytes(verdict.size)} in {verdict.seconds:.2f} s")
    listed = [(frame["number"], frame["status"], frame["reason"]) for frame in verdict.listed]
    for line in describe_problems(listed):
        say(f"  {printable(line)}")
    for note in verdict.notes:
        say(f"  note: {printable(note)}")
    for problem in verdict.problems:
        say(f"  PROBLEM: {printable(problem)}")
    say(_conclusion(verdict))


def _conclusion(verdict: Verdict) -> str:
    if verdict.ok:
        return "OK: the file holds what was measured"
    n = len(verdict.problems)
    return f"{n} problem{'s' if n > 1 else ''}"


@app.command(rich_help_panel=DATA)
def rebuild(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="UID", help="Runs to publish again in any case."),
    ] = None,
    beamline: Beamline = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild a lost catalog from the journals and the scan files.

    The catalog's server must be running (offbragg serve), offbragg stack must not. Runs that are
    intact in the catalog are left unchanged. It can be killed at any moment and restarted.

    Exit code 0: every run is in the catalog. 1: at least one is not; see the messages.
    """
    from offbragg.beamline.config import load
    from offbragg.recovery.rebuild import rebuild as build

    config = load(beamline)
    with (
        until_stopped() as stop,
        progress_bar("rebuilding", quiet=as_json) as progress,
    ):
        log_to_stderr()
        rebuilt = build(
            config.paths.journal,
            config.paths.experiment,
            config.connect_catalog,
            frames=config.paths.frames,
            runs=runs or (),
            progress=progress,
            stop=stop,
        )
    if as_json:
        print(json.dumps(rebuilt))
    else:
        n = rebuilt["runs"]
        say(f"{n} run{'' if n == 1 else 's'}: {len(rebuilt['published'])} published")
        for uid in rebuilt["failed"]:
            say(f"run {uid} could not be published; see above", file=sys.stderr)
    if rebuilt["failed"]:
        raise typer.Exit(1)
