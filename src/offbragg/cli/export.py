"""The command export: runs in the files of other programs, and records of runs and series."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offbragg.cli.app import DATA, AsJson, Beamline, app
from offbragg.cli.terminal import say
from offbragg.errors import ConfigError
from offbragg.printable import printable

if TYPE_CHECKING:
    from offbragg.beamline.config import Beamline as Config
    from offbragg.export.record import About


class Format(StrEnum):
    """What a run can be exported to."""

    NXSAS = "nxsas"
    CSV = "csv"
    RO_CRATE = "ro-crate"
    SCICAT = "scicat"
    DATACITE = "datacite"


# -1 is a run
@app.command(rich_help_panel=DATA, context_settings={"ignore_unknown_options": True})
def export(
    run: Annotated[
        str,
        typer.Argument(
            metavar="UID|SERIES",
            help="Run: its uid or the beginning of it, #42, or -1. A record can also be of a "
            "series: its uid or the beginning of it.",
        ),
    ],
    file_format: Annotated[
        Format,
        typer.Option(
            "--format",
            help="One NeXus file; one CSV table per stream; or a record: an RO-Crate, SciCat's "
            "datasets, or DataCite's metadata.",
        ),
    ] = Format.NXSAS,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the files.")
    ] = Path(),
    prefix: Annotated[
        str,
        typer.Option(
            "--prefix", help="Beginning of the file names, filled from the start document."
        ),
    ] = "{uid}-",
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="What a record holds and no file does, in place of what the table records of "
            "beamline.toml has: title, creators (separated by semicolons), publisher, …",
        ),
    ] = None,
    beamline: Beamline = None,
    as_json: AsJson = False,
) -> None:
    """Export a run to other programs, or write a record of a run or series with its provenance.

    The documents come from the journal. Frames are not copied: the NeXus file links to them in
    the scan file. A record names the files, what each was made from, and their checksums; for the
    SHA-256 every file is read once. Existing files are never overwritten.
    """
    from offbragg.beamline.config import load

    config = load(beamline)
    if file_format in (Format.NXSAS, Format.CSV):
        if values:
            raise typer.BadParameter(f"--set is for records: {file_format} does not take it")
        uid, files = _export_run(config, run, file_format, out, prefix)
    else:
        uid, files = _export_record(config, run, file_format, out, values or [])
    if as_json:
        print(json.dumps({"run": uid, "files": [str(path) for path in files]}))
    else:
        say("\n".join(printable(file) for file in files))


def _export_run(
    config: Config, run: str, file_format: Format, out: Path, prefix: str
) -> tuple[str, list[Any]]:
    from offbragg.export import csv, nxsas
    from offbragg.files.journal_file import read_ended
    from offbragg.files.journal_folder import find_run
    from offbragg.recovery.verify import scan_file_of_run

    documents = read_ended(find_run(config.paths.journal, run))
    start = documents[0][1]
    scan_file = None
    if "sweep" in start:
        scan_file = scan_file_of_run(
            start["uid"], journal=config.paths.journal, experiment=config.paths.experiment
        )
    write = csv.export if file_format is Format.CSV else nxsas.export
    return start["uid"], write(documents, out, prefix, scan_file=scan_file)["stream_data"]


def _export_record(
    config: Config, run: str, file_format: Format, out: Path, values: list[str]
) -> tuple[str, list[Any]]:
    from offbragg.export import datacite, ro_crate, scicat
    from offbragg.export.artifacts import Directory
    from offbragg.export.gather import find_runs, gather
    from offbragg.export.record import About

    texts: dict[str, str] = {}
    for each in values:
        name, equals, value = each.partition("=")
        if not equals:
            raise typer.BadParameter("--set takes NAME=VALUE, as --set title='Diffuse scattering'")
        texts[name] = value
    about = _checked(About.from_dict(config.records.model_dump()).changed(texts))
    needs = {
        Format.RO_CRATE: ro_crate.NEEDS,
        Format.SCICAT: scicat.NEEDS,
        Format.DATACITE: datacite.NEEDS,
    }[file_format]
    about.require(*needs)  # before files are read, which may take long
    uid, journals = find_runs(config.paths.journal, run)
    name = ro_crate.NAME if file_format is Format.RO_CRATE else f"{uid}-{file_format}.json"
    path = Directory(out).reserve_name("record", name)
    record = gather(
        uid, journals, experiment=config.paths.experiment, beamline=config.beamline_id, about=about
    )
    if file_format is Format.RO_CRATE:
        document = ro_crate.ro_crate(record, path.parent)
    elif file_format is Format.SCICAT:
        document = scicat.scicat(record)
    else:
        document = datacite.datacite(record)
    for note in record.notes:
        say(f"offbragg: {printable(note)}", file=sys.stderr)
    try:
        with path.open("x", encoding="utf-8") as file:
            json.dump(document, file, indent=1, ensure_ascii=False)
            file.write("\n")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    return uid, [path]


def _checked(about: About) -> About:
    """Return it if each value is as beamline.toml may have it."""
    from pydantic import ValidationError

    from offbragg.beamline.tables import Records

    values = asdict(about)
    try:
        Records.model_validate({**values, "creators": list(values["creators"])})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{name} of a record cannot be {first.get('input')!r}: {first['msg']}\n"
            "The page hand-over-records lists what each may be."
        ) from error
    return about
