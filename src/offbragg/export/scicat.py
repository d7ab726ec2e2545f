"""A record as SciCat takes it: datasets and their files, as its API of version 3 reads them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offbragg.export.record import Derived, ExperimentRecord, RecordedFile, RecordedRun, iso

NEEDS = (
    "a SciCat dataset",
    "owner", "owner_group", "contact_email", "principal_investigator", "location",
)  # fmt: skip
"""What needs what, for `About.require`."""


def scicat(record: ExperimentRecord) -> dict[str, Any]:
    """Return a record as SciCat's datasets, raw ones first, each after what it was made from.

    Returns
    -------
    document
        ``datasets``, each with the ``dataset`` for ``POST /api/v3/datasets`` and the
        ``origdatablock`` for ``POST /api/v3/origdatablocks``. A ``pid`` is the run's uid, or a
        UUID made from the file's SHA-256. A server may put its prefix before it: ``inputDatasets``
        and ``datasetId`` are then to be changed to what it returns.

    Raises
    ------
    ConfigError
        If owner, owner_group, contact_email, principal_investigator or location are not set.
    """
    record.about.require(*NEEDS)
    pids: dict[Path, str] = {}
    datasets = [_raw(record, run, pids) for run in record.runs]
    datasets += [_derived(record, each, pids) for each in record.derived]
    return {"datasets": datasets, "notes": list(record.notes)}


def _raw(record: ExperimentRecord, run: RecordedRun, pids: dict[Path, str]) -> dict[str, Any]:
    # one file, so that its folder and no other is what an archive takes
    files = [run.scan_file or run.journal]
    pids[files[0].path] = run.uid
    start, sample = run.start, run.sample
    of = " ".join(str(sample[key]) for key in ("name", "label") if sample.get(key))
    number = f"run {start.get('scan_id', run.uid[:8])}"
    dataset = {
        **_common(record, files, run.uid, f"{of} {number}".strip()),
        "type": "raw",
        "principalInvestigator": record.about.principal_investigator,
        "creationLocation": record.about.location,
        "creationTime": iso(run.stop["time"]),
        "startTime": iso(start["time"]),
        "endTime": iso(run.stop["time"]),
        "dataFormat": "NeXus" if run.scan_file else "JSON Lines",
        "instrumentId": record.beamline,
        "scientificMetadata": {
            "start": dict(start),
            "exit_status": run.stop.get("exit_status"),
            "frames": dict(run.counts),
            "journal": {"path": str(run.journal.path), "sha256": run.journal.sha256.value},
            "frame_files": None if run.frames is None else run.frames.uri,
        },
    }
    if start.get("proposal"):
        dataset["proposalId"] = str(start["proposal"])
    return _with_files(dataset, files)


def _derived(record: ExperimentRecord, derived: Derived, pids: dict[Path, str]) -> dict[str, Any]:
    file = derived.file
    pids[file.path] = pid = str(uuid.uuid5(uuid.NAMESPACE_OID, file.sha256.value))
    software = [f"{name} {version}" for name, version in derived.software.items()]
    dataset = {
        **_common(record, [file], pid, f"{file.role} {file.path.stem}"),
        "type": "derived",
        "investigator": record.about.principal_investigator,
        "creationTime": iso(file.modified),
        "inputDatasets": list(dict.fromkeys(pids[path] for path in derived.inputs)),
        "usedSoftware": software or ["offbragg"],
        "jobParameters": dict(derived.parameters),
        "scientificMetadata": {"role": file.role},
    }
    return _with_files(dataset, [file])


def _common(
    record: ExperimentRecord, files: list[RecordedFile], pid: str, name: str
) -> dict[str, Any]:
    about = record.about
    dataset: dict[str, Any] = {
        "pid": pid,
        "datasetName": f"{about.title}: {name}" if about.title else name,
        "description": about.description or record.summary(),
        "owner": about.owner,
        "ownerGroup": about.owner_group,
        "contactEmail": about.contact_email,
        "sourceFolder": str(files[0].path.parent),
        "size": sum(each.size for each in files),
        "numberOfFiles": len(files),
    }
    return dataset | ({"license": about.license} if about.license else {})


def _with_files(dataset: Mapping[str, Any], files: list[RecordedFile]) -> dict[str, Any]:
    listed = [
        {
            "path": each.path.name,
            "size": each.size,
            "time": iso(each.modified),
            "chk": each.sha256.value,
        }
        for each in files
    ]
    return {
        "dataset": dict(dataset),
        "origdatablock": {
            "datasetId": dataset["pid"],
            "size": dataset["size"],
            "chkAlg": "sha256",
            "dataFileList": listed,
        },
    }
