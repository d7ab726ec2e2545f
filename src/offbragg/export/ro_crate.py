"""A record as an RO-Crate 1.1: ``ro-crate-metadata.json``, JSON-LD with the terms of schema.org."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from offbragg.export.record import (
    Checksum,
    Derived,
    ExperimentRecord,
    FrameFiles,
    Person,
    RecordedFile,
    RecordedRun,
    iso,
)

NAME = "ro-crate-metadata.json"
NEEDS = ("an RO-Crate", "title", "creators", "license")
"""What needs what, for `About.require`."""

_CONTEXT = ["https://w3id.org/ro/crate/1.1/context", {"sha256": "https://schema.org/sha256"}]
_PROFILE = "https://w3id.org/ro/crate/1.1"


def ro_crate(record: ExperimentRecord, root: Path) -> dict[str, Any]:
    """Return a record as an RO-Crate.

    Parameters
    ----------
    record
        The record.
    root
        The folder of the crate. Files below it are named relative to it, others by ``file://``.

    Raises
    ------
    ConfigError
        If title, creators or license are not set.
    """
    about = record.about
    about.require(*NEEDS)
    crate = _Crate(root.resolve())
    for run in record.runs:
        crate.add_run(run, record.beamline)
    for each in record.derived:
        crate.add_derived(each)
    crate.add(
        "./",
        "Dataset",
        name=about.title,
        description=about.description or record.summary(),
        identifier=about.doi or record.identifier,
        datePublished=iso(record.made),
        temporalCoverage=f"{iso(record.begin)}/{iso(record.end)}",
        creator=[crate.person(each) for each in about.creators],
        publisher=crate.organization(about.publisher),
        license=_license(about.license),
        hasPart=[{"@id": each} for each in crate.parts],
        mentions=[{"@id": each} for each in crate.actions],
    )
    crate.add(
        NAME, "CreativeWork", about={"@id": "./"}, conformsTo={"@id": _PROFILE},
    )  # fmt: skip
    return {"@context": _CONTEXT, "@graph": list(crate.entities.values())}


def _license(license_: str) -> Any:
    return {"@id": license_} if "://" in license_ else license_


class _Crate:
    """The entities of a crate, each once."""

    def __init__(self, root: Path) -> None:
        self.entities: dict[str, dict[str, Any]] = {}
        self.parts: list[str] = []
        self.actions: list[str] = []
        self._root = root

    def add(self, key: str, kind: str, **properties: Any) -> dict[str, str]:
        """Add an entity, with the properties that are known; return the reference to it."""
        known = {name: value for name, value in properties.items() if value not in (None, "", [])}
        self.entities[key] = {"@id": key, "@type": kind, **known}
        return {"@id": key}

    def person(self, person: Person) -> dict[str, str]:
        key = (
            f"https://orcid.org/{person.orcid}"
            if person.orcid
            else f"#person-{_fragment(person.name)}"
        )
        return self.add(
            key, "Person", name=person.name, affiliation=self.organization(person.affiliation)
        )

    def organization(self, name: str) -> dict[str, str] | None:
        if not name:
            return None
        return self.add(f"#organization-{_fragment(name)}", "Organization", name=name)

    def file(self, file: RecordedFile) -> dict[str, str]:
        key = self._key(file.path)
        if key not in self.entities:
            self.parts.append(key)
            self.add(
                key,
                "File",
                name=file.path.name,
                description=file.role,
                contentSize=str(file.size),
                dateModified=iso(file.modified),
                encodingFormat=file.media_type,
                sha256=file.sha256.value,
                identifier=[
                    self._checksum(key, n, each)
                    for n, each in enumerate((file.sha256, *file.others))
                ],
            )
        return {"@id": key}

    def _key(self, path: Path) -> str:
        """Return the address of a file: relative, if it is below the crate's root."""
        if path.is_relative_to(self._root):
            return quote(path.relative_to(self._root).as_posix())
        return path.as_uri()

    def _checksum(self, key: str, n: int, checksum: Checksum) -> dict[str, str]:
        return self.add(
            f"#checksum-{n}-{_fragment(key)}", "PropertyValue", propertyID=checksum.algorithm,
            name="checksum", value=checksum.value, description=checksum.origin,
        )  # fmt: skip

    def frames(self, frames: FrameFiles) -> dict[str, str]:
        key = frames.uri.rstrip("/") + "/"
        stored = "" if frames.number is None else f"{frames.number} stored frames"
        if key not in self.entities:
            self.parts.append(key)
            self.add(
                key, "Dataset", name="frame files",
                description="; ".join(
                    each for each in (stored, frames.checksums) if each
                ),
                encodingFormat=frames.media_type,
            )  # fmt: skip
        return {"@id": key}

    def add_run(self, run: RecordedRun, beamline: str) -> None:
        facts = run.start.get("detector") or {}
        hardware = [self.add(f"#beamline-{_fragment(beamline)}", "Product", name=beamline)]
        if facts.get("model"):
            hardware.append(
                self.add(
                    f"#detector-{_fragment(facts['model'])}", "Product",
                    name=str(facts["model"]), serialNumber=facts.get("serial"),
                )
            )  # fmt: skip
        sample = run.sample
        subject = None
        if sample.get("name"):
            subject = self.add(
                f"#sample-{_fragment(sample['name'])}/{_fragment(sample.get('label', ''))}",
                "Thing", name=str(sample["name"]), alternateName=sample.get("label"),
                description=sample.get("formula"),
            )  # fmt: skip
        journal = self.file(run.journal)
        raw = [journal] if run.frames is None else [self.frames(run.frames), journal]
        self._act(
            f"#measure-{run.uid}",
            name=f"measure: {run.start.get('plan_name', 'a run')}",
            startTime=iso(run.start["time"]),
            endTime=iso(run.stop["time"]),
            actionStatus=_status(run.stop),
            error=run.stop.get("reason"),
            instrument=hardware,
            object=subject,
            result=raw,
        )
        if run.scan_file is not None:
            self._act(
                f"#stack-{run.uid}", name="stack", instrument=self._software("offbragg", ""),
                object=raw, result=self.file(run.scan_file),
            )  # fmt: skip

    def add_derived(self, derived: Derived) -> None:
        known = {each["@id"] for each in self.entities.values() if each["@type"] == "File"}
        made = self.file(derived.file)
        paths = {self._key(path) for path in derived.inputs}
        self._act(
            f"#make-{_fragment(made['@id'])}",
            name=f"make: {derived.file.role}",
            instrument=[self._software(*each) for each in derived.software.items()],
            object=[{"@id": each} for each in sorted(paths & known)],
            result=made,
        )

    def _software(self, name: str, version: str) -> dict[str, str]:
        key = f"#software-{_fragment(name)}" + (f"-{_fragment(version)}" if version else "")
        return self.add(key, "SoftwareApplication", name=name, softwareVersion=version)

    def _act(self, key: str, **properties: Any) -> None:
        self.actions.append(self.add(key, "CreateAction", **properties)["@id"])


def _status(stop: Mapping[str, Any]) -> str:
    done = stop.get("exit_status") == "success"
    return f"http://schema.org/{'Completed' if done else 'Failed'}ActionStatus"


def _fragment(text: object) -> str:
    """Return a text as a part of an address; no two texts have the same."""
    return quote(str(text), safe="")
