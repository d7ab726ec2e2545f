"""The neutral record of an experiment: who, what, when, and which file was made from which.

Every format of a record is a function of this one. It holds what stands in journals and files and
what the beamline has set; nothing else is filled in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from offbragg.errors import ConfigError
from offbragg.spelling import did_you_mean

COMPUTED = "computed for this record"

SCAN, JOURNAL, VOLUME, PDF = "scan file", "journal", "volume", "pair distribution"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who made the data; ``orcid`` is its 16 digits with dashes."""

    name: str
    orcid: str = ""
    affiliation: str = ""


@dataclass(frozen=True, slots=True)
class About:
    """What no file holds: it is set in ``[records]`` of beamline.toml, or for one record.

    Parameters
    ----------
    title, publisher, publication_year, license, doi, description
        Of the data; the license as an SPDX identifier or a URL.
    creators
        In order.
    owner, owner_group, contact_email, principal_investigator, location
        As SciCat takes them; the location as "/site/facility/instrument".
    """

    title: str = ""
    creators: tuple[Person, ...] = ()
    publisher: str = ""
    publication_year: str = ""
    license: str = ""
    doi: str = ""
    description: str = ""
    owner: str = ""
    owner_group: str = ""
    contact_email: str = ""
    principal_investigator: str = ""
    location: str = ""

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> About:
        """Make it from the table of a configuration."""
        people = tuple(Person(**each) for each in settings.get("creators", ()))
        return cls(**{**settings, "creators": people})

    def changed(self, texts: Mapping[str, str]) -> About:
        """Return it with other values.

        Parameters
        ----------
        texts
            By the names of the fields; creators are separated by semicolons.

        Raises
        ------
        ConfigError
            If there is no such field.
        """
        known = [each.name for each in fields(About)]
        for name in texts:
            if name not in known:
                raise ConfigError(
                    f"a record has no {name!r}{did_you_mean(name, known)}: it has "
                    f"{', '.join(known)}"
                )
        values: dict[str, Any] = dict(texts)
        if "creators" in values:
            names = [each.strip() for each in values["creators"].split(";")]
            values["creators"] = tuple(Person(name) for name in names if name)
        return replace(self, **values)

    def require(self, what: str, *names: str) -> None:
        """Raise `ConfigError` that names the fields which a format needs and nobody has set."""
        missing = [name for name in names if not getattr(self, name)]
        if missing:
            raise ConfigError(
                f"{what} needs {', '.join(missing)}: no file holds that\n"
                f"Set it in [records] of beamline.toml, or with --set {missing[0]}=…"
            )


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum of a whole file, and where it is from."""

    algorithm: str
    value: str
    origin: str = COMPUTED


@dataclass(frozen=True, slots=True)
class RecordedFile:
    """A file on disk.

    Parameters
    ----------
    path, size, modified
        Size in bytes; POSIX s.
    role
        `SCAN`, `JOURNAL`, `VOLUME` or `PDF`.
    sha256
        Of its bytes.
    others
        More checksums that stand in files.
    """

    path: Path
    size: int
    modified: float
    role: str
    sha256: Checksum
    others: tuple[Checksum, ...] = ()

    @property
    def media_type(self) -> str:
        """As IANA or its developers name it."""
        if self.path.suffix == ".zip":
            return "application/zip"  # an archive of journals
        return "application/jsonl" if self.role == JOURNAL else "application/x-hdf5"


@dataclass(frozen=True, slots=True)
class FrameFiles:
    """The frame files of a run, which are one thing here: there are thousands.

    Parameters
    ----------
    uri
        Their folder, as the detector's documents name it.
    number
        Of stored frames; None if there is no scan file that says it.
    media_type
        Of one of them.
    checksums
        Where the checksum of each frame stands; empty: nowhere.
    """

    uri: str
    number: int | None
    media_type: str
    checksums: str = ""


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """One run: its documents, its frame files and its scan file."""

    start: Mapping[str, Any]
    stop: Mapping[str, Any]
    journal: RecordedFile
    frames: FrameFiles | None
    scan_file: RecordedFile | None
    counts: Mapping[str, int] = field(default_factory=dict)
    """Frames by status."""

    @property
    def uid(self) -> str:
        """Of the run."""
        return str(self.start["uid"])

    @property
    def sample(self) -> Mapping[str, Any]:
        """The crystal, as the start document has it."""
        sample = self.start.get("sample") or {}
        return {"name": sample} if isinstance(sample, str) else sample


@dataclass(frozen=True, slots=True)
class Derived:
    """A file that was made from others.

    Parameters
    ----------
    file
        It.
    inputs
        The files of this record that it was made from.
    parameters
        How, as it holds itself.
    software
        Package → version, as it holds itself.
    """

    file: RecordedFile
    inputs: tuple[Path, ...]
    parameters: Mapping[str, Any]
    software: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ExperimentRecord:
    """Runs, and what was made from them.

    Parameters
    ----------
    identifier
        The uid of the run or of the series.
    about
        What the beamline has set.
    beamline
        Its id.
    runs
        Oldest first.
    derived
        Volumes, then pair distributions.
    made
        When this record was made, POSIX s.
    notes
        What does not agree.
    """

    identifier: str
    about: About
    beamline: str
    runs: tuple[RecordedRun, ...]
    derived: tuple[Derived, ...]
    made: float
    notes: tuple[str, ...] = ()

    @property
    def begin(self) -> float:
        """Start of the first run, POSIX s."""
        return min(float(run.start["time"]) for run in self.runs)

    @property
    def end(self) -> float:
        """End of the last run, POSIX s."""
        return max(float(run.stop["time"]) for run in self.runs)

    def files(self) -> list[RecordedFile]:
        """Return all files, each once."""
        found: dict[Path, RecordedFile] = {}
        for run in self.runs:
            for file in (run.journal, run.scan_file):
                if file is not None:
                    found.setdefault(file.path, file)
        for each in self.derived:
            found.setdefault(each.file.path, each.file)
        return list(found.values())

    def summary(self) -> str:
        """Return one sentence from the documents: sample, number of runs, beamline."""
        samples = sorted({str(run.sample["name"]) for run in self.runs if run.sample.get("name")})
        n = len(self.runs)
        of = f" of {', '.join(samples)}" if samples else ""
        return f"{n} run{'' if n == 1 else 's'}{of}, measured at {self.beamline}"


def iso(time: float) -> str:
    """Return a POSIX time as RFC 3339 in UTC.

    Examples
    --------
    >>> iso(0.5)
    '1970-01-01T00:00:00.500Z'
    """
    text = datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
