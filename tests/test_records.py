"""Records of runs and series: who, what, when, and which file was made from which."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from rocrate.rocrate import ROCrate
from runs import MeasuredRun
from typer.testing import CliRunner
from volumes import sparse_volume

from offbragg.cli.app import app
from offbragg.errors import ConfigError, OffbraggError
from offbragg.export import gather as gathering
from offbragg.export.gather import find_runs, gather
from offbragg.export.record import PDF, VOLUME, About, ExperimentRecord, Person
from offbragg.export.ro_crate import ro_crate
from offbragg.export.scicat import scicat
from offbragg.files.digest import read_digest
from offbragg.files.journal_archive import archiving, pack
from offbragg.files.volume_writer import write_volume
from offbragg.followers.follow import follow
from offbragg.followers.stacker import Stacker
from offbragg.grid import Grid
from offbragg.workflows.choices import Choices
from offbragg.workflows.reduce import reduce_files

ENOUGH = About(title="Hills", creators=(Person("Maxwell"),), license="CC0-1.0")

BEAMLINE = """
beamline_id = "13-ID-X"
[paths]
experiment = "experiment"
frames = "frames"
journal = "journal"
catalog = "catalog"
log = "log"
[records]
title = "Diffuse scattering of LSMO"
publisher = "A light source"
publication_year = "2026"
license = "CC-BY-4.0"
owner = "Maxwell"
owner_group = "group"
contact_email = "somebody@example.org"
principal_investigator = "James Maxwell"
location = "/site/facility/13-ID-X"
[[records.creators]]
name = "Maxwell, James"
orcid = "0000-0002-1825-0097"
affiliation = "A university"
"""


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def offbragg(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def stack(run: MeasuredRun, *more: MeasuredRun) -> Path:
    for each in (run, *more):
        each.begin()
        each.write(*range(each.n_frames))
        each.announce(each.n_frames)
        each.end()
    follow(run.journal_directory, [Stacker(run.experiment, late=run.late)], once=True)
    return next(run.experiment.rglob("f*.h5"))


@dataclass(frozen=True)
class Experiment:
    root: Path
    uid: str

    @property
    def experiment(self) -> Path:
        return self.root / "experiment"

    @property
    def journal_directory(self) -> Path:
        return self.root / "journal"


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Experiment:
    """A run that was stacked, reduced and transformed."""
    run = MeasuredRun(tmp_path_factory.mktemp("measured"), n_frames=3)
    scan = stack(run)
    (run.root / "beamline.toml").write_text(BEAMLINE)
    box = Grid.box((-1, 1), (-1, 1), (-1, 1), step=0.5)
    reduce_files([scan], Choices(grid=box, monitor=False, hot=False), out=scan.parent / "v.h5")
    done = offbragg("pdf", scan.parent / "v.h5", "--punch", "0.25")
    assert done.exit_code == 0, done.output
    return Experiment(run.root, run.uid)


@pytest.fixture
def experiment(measured: Experiment, tmp_path: Path) -> Experiment:
    """A copy of it, to be changed."""
    shutil.copytree(measured.root, tmp_path / "copy")
    return Experiment(tmp_path / "copy", measured.uid)


def export(run: Experiment, kind: str, *more: object) -> dict[str, Any]:
    done = offbragg(
        "export", run.uid[:8], "--format", kind, "--out", run.root, "--beamline",
        run.root / "beamline.toml", "--json", *more,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (path,) = json.loads(done.stdout)["files"]
    return json.loads(Path(path).read_text())


def record_of(run: Experiment | MeasuredRun, about: About | None = None) -> ExperimentRecord:
    uid, paths = find_runs(run.journal_directory, run.uid)
    return gather(
        uid, paths, experiment=run.experiment, beamline="13-ID-X", about=about or About()
    )  # fmt: skip


def test_a_record_follows_the_data_from_frames_to_the_pair_distribution(experiment):
    record = record_of(experiment)

    (run,) = record.runs
    volume, pdf = record.derived
    assert run.scan_file is not None
    assert run.frames is not None
    assert run.frames.number == 3
    assert "/entry/frames/md5" in run.frames.checksums
    assert (volume.file.role, pdf.file.role) == (VOLUME, PDF)
    assert volume.inputs == (run.scan_file.path,)
    assert pdf.inputs == (volume.file.path,)
    assert record.notes == ()
    for file in record.files():
        assert file.sha256.value == sha256(file.path)


def test_a_checksum_that_stands_in_a_file_is_named_beside_the_one_that_is_computed(experiment):
    (run,) = record_of(experiment).runs

    assert run.scan_file is not None
    assert run.scan_file.sha256.value == sha256(run.scan_file.path)
    (crc,) = run.scan_file.others
    digest = read_digest(run.scan_file.path)
    assert digest is not None
    assert (crc.algorithm, int(crc.value, 16)) == ("crc64-xz", digest.crc64)
    assert crc.origin == f"{run.scan_file.path.name}.digest, made when the file was closed"


def test_a_copy_of_a_volume_says_nothing_of_a_scan_file_that_was_changed(experiment):
    scan = next(experiment.experiment.rglob("f*.h5"))
    volume = next(experiment.experiment.rglob("v.h5"))
    with scan.open("ab") as file:
        file.write(b"more")
    shutil.copy(volume, volume.with_name("w.h5"))  # younger than the change

    record = record_of(experiment)

    assert record.runs[0].scan_file is not None
    assert record.runs[0].scan_file.sha256.value == sha256(scan)
    assert [each.inputs for each in record.derived if each.file.path == volume] == [()]
    assert "w.h5 is a copy of v.h5, and not listed" in record.notes


def test_names_that_are_alike_stay_two_in_a_crate(experiment):
    volume = next(experiment.experiment.rglob("v.h5"))
    other = sparse_volume((4, 4, 4))
    scan = next(experiment.experiment.rglob("f*.h5"))
    for name, n in (("a_1.h5", 1), ("a-1.h5", 2), ("a 1.h5", 3)):
        made = {
            "format": 1,
            "n": n,
            "inputs": [{"run": experiment.uid, "file": scan.name, "sha256": sha256(scan)}],
        }
        write_volume(volume.with_name(name), other, made)

    crate = ro_crate(record_of(experiment, ENOUGH), experiment.experiment)

    found = {each["@id"]: each for each in crate["@graph"]}
    files = [each for each in found.values() if each["@type"] == "File" and each["name"][:1] == "a"]
    assert {each["name"] for each in files} == {"a_1.h5", "a-1.h5", "a 1.h5"}
    for each in files:
        assert found[each["identifier"][0]["@id"]]["value"] == each["sha256"]
        assert " " not in each["@id"]
    assert len([key for key in found if key.startswith("#make-")]) == 5


def test_what_no_file_says_is_not_invented(experiment):
    next(experiment.experiment.rglob("f*.h5")).unlink()

    record = record_of(experiment, ENOUGH)

    assert record.runs[0].frames is not None
    assert record.runs[0].frames.number is None
    assert "0 stored" not in json.dumps(ro_crate(record, experiment.experiment))


def test_a_scan_file_that_was_changed_after_its_volume_is_not_its_source(experiment):
    scan = next(experiment.experiment.rglob("f*.h5"))
    with scan.open("ab") as file:
        file.write(b"more")

    record = record_of(experiment)

    (run,) = record.runs
    assert run.scan_file is not None
    assert run.scan_file.sha256.value == sha256(scan)
    assert run.scan_file.others == (), "the digest is of another size"
    assert record.derived[0].inputs == ()
    assert record.notes == (f"{scan.name} was changed after v.h5 had been made from it",)


def test_files_of_other_crystals_are_not_opened_and_an_archive_is_named(experiment, monkeypatch):
    volume = next(experiment.experiment.rglob("v.h5"))
    other = experiment.experiment / "other" / "crystal" / "100K" / "v.h5"
    other.parent.mkdir(parents=True)
    shutil.copy(volume, other)
    opened: list[Path] = []
    original = gathering.open_to_read
    monkeypatch.setattr(
        gathering,
        "open_to_read",
        lambda path, **more: opened.append(path) or original(path, **more),
    )
    journal = experiment.journal_directory / f"{experiment.uid}.jsonl"
    with archiving(journal.parent):
        archive, _ = pack(journal.parent, "2026-11", {journal: journal.read_bytes()})

    uid, paths = find_runs(experiment.journal_directory, experiment.uid[:8])
    record = gather(uid, paths, experiment=experiment.experiment, beamline="x", about=About())

    assert volume in opened
    assert other not in opened
    assert not [path for path in opened if re.fullmatch(r"f\d+\.h5", path.name)]
    assert record.runs[0].journal.path == archive.resolve()
    assert record.runs[0].journal.media_type == "application/zip"
    assert next(each.file.path for each in record.derived) == volume.resolve()


def test_what_another_run_or_a_growing_volume_made_is_not_listed(experiment):
    scan = next(experiment.experiment.rglob("f*.h5"))
    volume = sparse_volume((4, 4, 4))
    foreign = {"format": 1, "inputs": [{"run": "other", "file": "x.h5", "sha256": "0"}]}
    growing = {"growing": 1, "inputs": [{"run": experiment.uid, "file": scan.name, "sha256": "0"}]}
    write_volume(scan.parent / "foreign.h5", volume, foreign)
    write_volume(scan.parent / "growing.h5", volume, growing)

    record = record_of(experiment)

    assert [each.file.path.name for each in record.derived] == ["v.h5", "v-pdf.h5"]


def test_an_ro_crate_is_read_by_rocrate(experiment):
    export(experiment, "ro-crate")

    crate = ROCrate(experiment.root)

    assert crate.name == "Diffuse scattering of LSMO"
    files = {each.id: each for each in crate.data_entities}
    scan = next(experiment.experiment.rglob("f*.h5"))
    relative = scan.relative_to(experiment.root.resolve()).as_posix()
    assert files[relative]["sha256"] == sha256(scan)
    assert files[relative]["contentSize"] == str(scan.stat().st_size)
    made: dict[str, Any] = {
        each.id.split("-")[0]: each for each in crate.get_by_type("CreateAction")
    }
    assert set(made) == {"#measure", "#stack", "#make"}
    assert made["#stack"]["result"].id == relative
    assert made["#measure"]["startTime"] < made["#measure"]["endTime"]
    (creator,) = cast(Any, crate.root_dataset["creator"])
    assert creator.id == "https://orcid.org/0000-0002-1825-0097"


def test_every_reference_in_an_ro_crate_has_its_entity(experiment):
    document = export(experiment, "ro-crate")

    entities = {each["@id"]: each for each in document["@graph"]}
    references = [
        part["@id"]
        for entity in entities.values()
        for value in entity.values()
        for part in (value if isinstance(value, list) else [value])
        if isinstance(part, dict)
    ]
    assert len(entities) == len(document["@graph"])
    assert {each for each in references if each not in entities} == {
        "https://w3id.org/ro/crate/1.1"
    }


def test_files_outside_an_ro_crate_are_named_by_their_address(experiment, tmp_path):
    about = About(title="x", creators=record_people(), license="https://example.org/license")
    record = record_of(experiment, about)

    document = ro_crate(record, tmp_path / "elsewhere")

    ids = [each["@id"] for each in document["@graph"] if each["@type"] == "File"]
    assert len(ids) == 4
    assert all(each.startswith("file:///") for each in ids)


def record_people() -> Any:
    return About().changed({"creators": "Maxwell, James; Curie, Marie"}).creators


def test_a_datacite_record_is_valid_by_the_schema(experiment):
    schema45 = pytest.importorskip("datacite.schema45", reason="datacite is not here")

    document = export(experiment, "datacite", "--set", "doi=10.5072/test.1")

    schema45.validator.validate(document)
    assert document["creators"][0]["familyName"] == "Maxwell"
    assert document["dates"][0]["dateType"] == "Collected"
    (technical,) = (
        each["description"]
        for each in document["descriptions"]
        if each["descriptionType"] == "TechnicalInfo"
    )
    for path in experiment.experiment.rglob("*.h5"):
        assert sha256(path) in technical
    assert "v-pdf.h5 made from v.h5" in technical


RAW = {
    "owner": str, "contactEmail": str, "sourceFolder": str, "creationTime": str, "ownerGroup": str,
    "type": str, "principalInvestigator": str, "creationLocation": str,
}  # fmt: skip
DERIVED = {
    "owner": str, "contactEmail": str, "sourceFolder": str, "creationTime": str, "ownerGroup": str,
    "type": str, "investigator": str, "inputDatasets": list, "usedSoftware": list,
}  # fmt: skip
"""What SciCat requires of a dataset, from its data transfer objects."""


def test_scicat_gets_raw_and_derived_datasets_with_their_files(experiment):
    document = export(experiment, "scicat")

    raw, volume, pdf = (each["dataset"] for each in document["datasets"])
    assert [each["type"] for each in (raw, volume, pdf)] == ["raw", "derived", "derived"]
    for dataset, needed in ((raw, RAW), (volume, DERIVED), (pdf, DERIVED)):
        assert {name: type(dataset.get(name)) for name in needed} == needed
    assert raw["pid"] == experiment.uid
    assert volume["inputDatasets"] == [raw["pid"]]
    assert pdf["inputDatasets"] == [volume["pid"]]
    for each in document["datasets"]:
        block = each["origdatablock"]
        assert block["datasetId"] == each["dataset"]["pid"]
        assert block["size"] == sum(file["size"] for file in block["dataFileList"])
        for file in block["dataFileList"]:
            assert file["chk"] == sha256(Path(each["dataset"]["sourceFolder"], file["path"]))


def test_a_series_is_one_record(run, tmp_path):
    second = MeasuredRun(tmp_path, n_frames=2, scan_id=2, temperature=130.0)
    run.n_frames = 2
    stack(run, second)
    (tmp_path / "beamline.toml").write_text(BEAMLINE)

    uid, paths = find_runs(tmp_path / "journal", "a-ser")
    record = gather(
        uid, paths, experiment=tmp_path / "experiment", beamline="x", about=About()
    )  # fmt: skip

    assert record.identifier == "a-series"
    assert [each.uid for each in record.runs] == [run.uid, second.uid]
    assert record.summary() == "2 runs of LSMO-140, measured at x"


NEEDED = [
    ("ro-crate", "title, creators, license"),
    ("datacite", "creators, title, publisher, publication_year"),
    ("scicat", "owner, owner_group, contact_email, principal_investigator, location"),
]


@pytest.mark.parametrize(("kind", "named"), NEEDED)
def test_what_no_file_holds_is_asked_for_by_name(experiment, kind, named):
    file = experiment.root / "beamline.toml"
    file.write_text(BEAMLINE.partition("[records]")[0])

    done = offbragg(
        "export", "-1", "--format", kind, "--out", experiment.root, "--beamline", file
    )  # fmt: skip

    assert isinstance(done.exception, ConfigError)
    assert named in str(done.exception)
    assert not [*experiment.root.glob("*.json")]


def test_a_wrong_name_is_refused_with_the_right_one():
    with pytest.raises(ConfigError, match=r"'my_title' \(did you mean 'title'\?\)"):
        About().changed({"my_title": "x"})


def test_a_record_is_not_overwritten_and_needs_the_end_of_the_run(experiment):
    export(experiment, "ro-crate")

    with pytest.raises(AssertionError):
        export(experiment, "ro-crate")

    later = MeasuredRun(experiment.root, scan_id=9)
    later.begin()
    with pytest.raises(OffbraggError, match="has not ended"):
        record_of(later)
    later.end()


def test_the_proposal_of_a_run_is_that_of_its_dataset(experiment):
    about = About(
        owner="o", owner_group="g", contact_email="e", principal_investigator="p", location="/l"
    )
    record = record_of(experiment, about)
    object.__setattr__(record.runs[0], "start", {**record.runs[0].start, "proposal": 1234})

    assert scicat(record)["datasets"][0]["dataset"]["proposalId"] == "1234"


@pytest.mark.parametrize(
    ("text", "named"),
    [("publication_year=soon", "publication_year"), ("doi=x", "doi")],
)
def test_a_value_that_beamline_toml_would_refuse_is_refused_on_the_command_line(
    experiment, text, named
):
    done = offbragg(
        "export", experiment.uid[:8], "--format", "datacite", "--out", experiment.root,
        "--beamline", experiment.root / "beamline.toml", "--set", text,
    )  # fmt: skip

    assert done.exit_code != 0
    assert f"{named} of a record cannot be" in str(done.exception) + done.output
