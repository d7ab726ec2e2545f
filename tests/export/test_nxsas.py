"""A sweep in a NeXus file: stream documents, links to the frames, techniques, refusals."""

from __future__ import annotations

from pathlib import Path

import event_model
import h5py
import numpy as np
import pytest
from runs import MeasuredRun, counts_of

import offbragg.export.csv
from offbragg.errors import ConfigError, ScanFileError
from offbragg.export.nxsas import export
from offbragg.files.journal_file import read_journal
from offbragg.followers.follow import follow
from offbragg.followers.stacker import Stacker


@pytest.fixture
def sweep(run: MeasuredRun):
    """Documents and scan file of a sweep whose frame 3 is missing."""
    run.begin()
    run.write(*(n for n in range(run.n_frames) if n != 3))
    run.announce(6)
    run.announce(run.n_frames)
    run.monitor_counted(list(range(run.n_frames)))
    run.end()
    follow(run.journal_directory, [Stacker(run.experiment, late=run.late)], once=True)
    documents, _ = read_journal(run.journal_directory / f"{run.uid}.jsonl")
    return documents, next(run.experiment.rglob("f1.h5"))


def only(artifacts) -> Path:
    (path,) = artifacts["stream_data"]
    return path


def test_frames_of_a_sweep_are_links_into_its_scan_file(tmp_path, sweep):
    documents, scan_file = sweep

    path = only(export(documents, tmp_path / "out", scan_file=scan_file))

    with h5py.File(path) as file:
        data = file["bluesky/events/primary/data"]
        link = data.get("pilatus_image", getlink=True)
        assert isinstance(link, h5py.ExternalLink)
        assert not Path(link.filename).is_absolute()
        np.testing.assert_array_equal(data["pilatus_image"][7], counts_of(7))
        assert list(data["status"].asstr()[2:5]) == ["stored", "missing", "stored"]
        np.testing.assert_allclose(data["angle"][()], 0.25 + 0.5 * np.arange(10))
        np.testing.assert_allclose(data["monitor"][()], 1000.0 + np.arange(10))
    assert path.stat().st_size < 200_000


def test_without_a_scan_file_the_frames_are_named_one_by_one(tmp_path, run, sweep):
    documents, _ = sweep

    path = only(export(documents, tmp_path / "out"))

    with h5py.File(path) as file:
        names = file["bluesky/events/primary/data/pilatus_image"].asstr()[()]
        assert list(names) == [str(run.path(n)) for n in range(10)]


def test_stream_documents_are_kept_as_they_came(tmp_path, run, sweep):
    documents, scan_file = sweep

    path = only(export(documents, tmp_path / "out", scan_file=scan_file))

    with h5py.File(path) as file:
        resource = file[f"bluesky/stream_resources/{run.resource}"]
        assert resource["mimetype"].asstr()[()] == "multipart/related;type=image/x-cbf"
        assert resource["parameters/template"].asstr()[()] == "x_{:05d}.cbf"
        datums = file[f"bluesky/stream_data/{run.resource}"]
        assert datums["indices"][()].tolist() == [[0, 6], [6, 10]]
        assert datums["seq_nums"][()].tolist() == [[1, 7], [7, 11]]


def test_a_stack_in_any_hdf5_file_is_linked(tmp_path):
    with h5py.File(tmp_path / "stack.h5", "w") as file:
        file["there"] = np.arange(6).reshape(2, 3)
    documents = []
    bundle = event_model.compose_run()
    documents.append(("start", bundle.start_doc))
    key = {"source": "x", "dtype": "array", "shape": [3], "external": "STREAM:"}
    stream = bundle.compose_descriptor(name="primary", data_keys={"stack": key})
    documents.append(("descriptor", stream.descriptor_doc))
    resource = event_model.compose_stream_resource(
        mimetype="application/x-hdf5",
        uri=f"file://localhost{tmp_path}/stack.h5",
        data_key="stack",
        parameters={"dataset": "/there"},
        start=bundle.start_doc,
    )
    documents.append(("stream_resource", resource.stream_resource_doc))
    datum = resource.compose_stream_datum(
        {"start": 0, "stop": 2}, {"start": 1, "stop": 3}, stream.descriptor_doc
    )
    documents += [("stream_datum", datum), ("stop", bundle.compose_stop())]

    path = only(export(documents, tmp_path / "out"))

    with h5py.File(path) as file:
        assert file["bluesky/events/primary/data/stack"][1].tolist() == [3, 4, 5]


def run_with(**metadata):
    bundle = event_model.compose_run()
    return [("start", {**bundle.start_doc, **metadata}), ("stop", bundle.compose_stop())]


NEXUS = {
    "entry": {
        "_attributes": {"NX_class": "NXentry", "default": "data"},
        "program_name": {"_attributes": {"version": "3"}, "_dataset": "areaDetector"},
        "GUPNumber": {"_attributes": {"source": "PV"}, "_link": "#bluesky/start/gup_number"},
        "instrument": {
            "_attributes": {"NX_class": "NXinstrument"},
            "name": "#bluesky/start/beamline_id",
            "aperture": {"vsize": 2.0, "description": "slit", "gaps": [1.0, 2.0]},
        },
        "nowhere": "#bluesky/start/not_there",
    }
}


@pytest.mark.parametrize("where", ["md", "top"])
def test_techniques_build_their_nexus_structure_with_links(tmp_path, where):
    techniques = [{"technique": "SAXS", "version": 1, "nxsas": NEXUS}]
    more = {"md": {"techniques": techniques}} if where == "md" else {"techniques": techniques}

    path = only(export(run_with(gup_number=12, beamline_id="12-ID", **more), tmp_path))

    with h5py.File(path) as file:
        entry = file["entry"]
        assert dict(entry.attrs) == {"NX_class": "NXentry", "default": "data"}
        assert entry["program_name"].asstr()[()] == "areaDetector"
        assert entry["program_name"].attrs["version"] == "3"
        assert entry["GUPNumber"] == file["bluesky/start/gup_number"]
        assert entry["GUPNumber"].attrs["source"] == "PV"
        assert entry["instrument/name"].asstr()[()] == "12-ID"
        assert entry["instrument/aperture/vsize"][()] == 2.0
        assert entry["instrument/aperture/gaps"][()].tolist() == [1.0, 2.0]
        assert "nowhere" not in entry  # a link that leads nowhere; the rest is there


def test_a_start_document_of_any_shape_is_written(tmp_path):
    odd = {
        "nothing": None, "empty": [], "ragged": [[1], [2, 3]], "mixed": [1, "a", None],
        "a/b": {"": 1}, "words": ["a", "ü"], "dimensions": [[["time"], "primary"]],
        "yes": True, "zero": "a\0b", "big": 2**62,
    }  # fmt: skip
    path = only(export(run_with(**odd), tmp_path))

    with h5py.File(path) as file:
        start = file["bluesky/start"]
        assert start["nothing"].asstr()[()] == "None"
        assert start["ragged"].asstr()[()] == "[[1], [2, 3]]"
        assert start["mixed"].asstr()[()] == '[1, "a", null]'
        assert list(start["words"].asstr()[()]) == ["a", "ü"]
        assert start["big"][()] == 2**62
        assert start["a_b/_"][()] == 1


def test_nothing_is_overwritten(tmp_path):
    documents = run_with()
    export(documents, tmp_path)

    with pytest.raises(ConfigError, match="is there already"):
        export(documents, tmp_path)


@pytest.mark.parametrize(
    ("prefix", "message"),
    [("{nothing}-", "nothing"), ("../{uid}-", "is not below"), ("/etc/{uid}-", "is not below")],
)
def test_a_prefix_that_cannot_be_is_refused(tmp_path, prefix, message):
    with pytest.raises(ConfigError, match=message):
        export(run_with(), tmp_path, prefix)

    assert not list(tmp_path.iterdir())


def test_values_that_are_elsewhere_are_not_invented(tmp_path):
    bundle = event_model.compose_run()
    key = {"source": "x", "dtype": "array", "shape": [3], "external": "FILESTORE:"}
    stream = bundle.compose_descriptor(name="primary", data_keys={"image": key})
    event = stream.compose_event(
        data={"image": "datum/0"}, timestamps={"image": 1.0}, filled={"image": False}
    )
    documents = [("start", bundle.start_doc), ("descriptor", stream.descriptor_doc)]

    with pytest.raises(ValueError, match="image of stream primary must be filled"):
        export([*documents, ("event", event)], tmp_path)


def test_rows_of_different_shape_are_refused_by_name(tmp_path):
    bundle = event_model.compose_run()
    key = {"source": "x", "dtype": "array", "shape": [3]}
    stream = bundle.compose_descriptor(name="primary", data_keys={"trace": key})
    documents = [("start", bundle.start_doc), ("descriptor", stream.descriptor_doc)]
    for values in ([1, 2, 3], [1, 2]):
        documents.append(
            ("event", stream.compose_event(data={"trace": values}, timestamps={"trace": 1.0}))
        )

    with pytest.raises(ScanFileError, match="trace has rows of shape"):
        export(documents, tmp_path)


def test_csv_of_a_sweep_has_one_row_for_each_frame(tmp_path, sweep):
    documents, scan_file = sweep

    artifacts = offbragg.export.csv.export(
        documents, tmp_path / "out", "{scan_id}-", scan_file=scan_file
    )

    by_name = {path.name: path.read_text().splitlines() for path in artifacts["stream_data"]}
    rows = by_name["1-primary.csv"]
    assert len(rows) == 11
    head = rows[0].split(",")
    missing = dict(zip(head, rows[4].split(","), strict=True))
    assert missing["number"] == "3"
    assert missing["status"] == "missing"
    assert missing["angle"] == "1.75"
    assert by_name["1-cryostream_temperature.csv"][1].endswith("120.0")
