"""A record as DataCite 4 metadata: the JSON from which a DOI is registered."""

from __future__ import annotations

from typing import Any

from offbragg.export.record import About, ExperimentRecord, Person, iso

SCHEMA = "http://datacite.org/schema/kernel-4"
NEEDS = ("a DataCite record", "creators", "title", "publisher", "publication_year")
"""What needs what, for `About.require`."""


def datacite(record: ExperimentRecord) -> dict[str, Any]:
    """Return a record as DataCite 4.5 JSON.

    Provenance and checksums are in its description of type TechnicalInfo: the schema has no
    other place for those of single files.

    Raises
    ------
    ConfigError
        If creators, title, publisher or publication_year are not set.
    """
    about = record.about
    about.require(*NEEDS)
    descriptions = [_described(about.description or record.summary(), "Abstract")]
    descriptions.append(_described("\n".join(provenance(record)), "TechnicalInfo"))
    files = record.files()
    document: dict[str, Any] = {
        "types": {"resourceTypeGeneral": "Dataset", "resourceType": "diffuse X-ray scattering"},
        "creators": [_person(each) for each in about.creators],
        "titles": [{"title": about.title}],
        "publisher": {"name": about.publisher},
        "publicationYear": about.publication_year,
        "dates": [
            {"date": f"{iso(record.begin)}/{iso(record.end)}", "dateType": "Collected"},
        ],
        "alternateIdentifiers": [
            {"alternateIdentifier": each, "alternateIdentifierType": "Bluesky uid"}
            for each in dict.fromkeys([record.identifier, *(run.uid for run in record.runs)])
        ],
        "sizes": [f"{sum(each.size for each in files)} bytes", f"{len(files)} files"],
        "formats": sorted({each.media_type for each in files}),
        "descriptions": descriptions,
        "schemaVersion": SCHEMA,
    }
    if about.doi:
        document["doi"] = about.doi
    if about.license:
        document["rightsList"] = [_rights(about)]
    return document


def provenance(record: ExperimentRecord) -> list[str]:
    """Return which file was made from which, with checksums, one line for each step."""
    lines: list[str] = []
    names = {each.path: each.path.name for each in record.files()}
    for run in record.runs:
        begin, end = iso(run.start["time"]), iso(run.stop["time"])
        lines.append(f"run {run.uid}: {begin} to {end}, {run.stop.get('exit_status', '')}")
        if run.frames is not None:
            number = "" if run.frames.number is None else f"{run.frames.number} "
            lines.append(f"{number}frames of {run.frames.uri}; {run.frames.checksums}")
        made_from = "frames and journal"
        for file, of in ((run.journal, ""), (run.scan_file, made_from)):
            if file is not None:
                lines.append(_line(file.role, file, of))
    for each in record.derived:
        lines.append(
            _line(each.file.role, each.file, ", ".join(names[path] for path in each.inputs))
        )
    return lines


def _line(role: str, file: Any, made_from: str) -> str:
    sums = "; ".join(
        f"{each.algorithm} {each.value} ({each.origin})" for each in (file.sha256, *file.others)
    )
    of = f" made from {made_from}" if made_from else ""
    return f"{role} {file.path.name}{of}: {file.size} bytes, {sums}"


def _described(text: str, kind: str) -> dict[str, str]:
    return {"description": text, "descriptionType": kind}


def _person(person: Person) -> dict[str, Any]:
    creator: dict[str, Any] = {"name": person.name, "nameType": "Personal"}
    family, comma, given = person.name.partition(",")
    if comma:
        creator |= {"familyName": family.strip(), "givenName": given.strip()}
    if person.orcid:
        creator["nameIdentifiers"] = [
            {
                "nameIdentifier": f"https://orcid.org/{person.orcid}",
                "nameIdentifierScheme": "ORCID",
                "schemeUri": "https://orcid.org",
            }
        ]
    if person.affiliation:
        creator["affiliation"] = [{"name": person.affiliation}]
    return creator


def _rights(about: About) -> dict[str, str]:
    if "://" in about.license:
        return {"rightsUri": about.license}
    return {"rightsIdentifier": about.license, "rightsIdentifierScheme": "SPDX"}
