"""The suitcase interface, measured by suitcase-utils' own example data, all of it."""

from __future__ import annotations

import csv
import io

import h5py
import numpy as np
import pytest
from suitcase.utils import MemoryBuffersManager, MultiFileManager

import offbragg.export.csv
import offbragg.export.nxsas

pytestmark = pytest.mark.filterwarnings("ignore:The document type 'bulk_events'")


def rows_of(documents) -> dict[str, list]:
    """All values of the documents, by data key, in order."""
    rows: dict[str, list] = {}
    for name, doc in documents:
        pages = []
        if name == "event":
            pages = [{key: [value] for key, value in doc["data"].items()}]
        elif name == "bulk_events":
            events = [event for stream in doc.values() for event in stream]
            pages = [{key: [value] for key, value in e["data"].items()} for e in events]
        elif name == "event_page":
            pages = [doc["data"]]
        for page in pages:
            for key, values in page.items():
                rows.setdefault(key, []).extend(values)
    return rows


def assert_holds(file: h5py.File, documents) -> None:
    start = documents[0][1]
    assert file["bluesky/start/uid"].asstr()[()] == start["uid"]
    assert file["bluesky/start/reason"].asstr()[()] == "test"
    assert file["bluesky/stop/exit_status"].asstr()[()] == "success"
    for name, doc in documents:
        if name == "descriptor":
            assert file[f"bluesky/descriptors/{doc['name']}/run_start"].asstr()[()] == start["uid"]
    found: dict[str, int] = {}
    for events in file["bluesky/events"].values():
        for key, dataset in events["data"].items():
            found[key] = found.get(key, 0) + len(dataset)
            assert len(events["timestamps"][key]) == len(dataset)
    expected = rows_of(documents)
    assert found == {key: len(values) for key, values in expected.items()}
    if len(file["bluesky/events"]) == 1:
        (events,) = file["bluesky/events"].values()
        for key, values in expected.items():
            np.testing.assert_array_equal(events["data"][key][()], np.asarray(values))


def test_nxsas_writes_all_example_data(tmp_path, example_data, file_prefix_list):
    documents = example_data()
    prefix = file_prefix_list()

    artifacts = offbragg.export.nxsas.export(documents, tmp_path, file_prefix=prefix)

    (path,) = artifacts["stream_data"]
    assert path.name == prefix.format(start=documents[0][1]) + ".h5"
    with h5py.File(path) as file:
        assert_holds(file, documents)


def test_csv_writes_all_example_data(tmp_path, example_data, file_prefix_list):
    documents = example_data()

    artifacts = offbragg.export.csv.export(documents, tmp_path, file_prefix=file_prefix_list())

    found: dict[str, int] = {}
    for path in artifacts["stream_data"]:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for key in row.keys() - {"seq_num", "time"}:
                    found[key] = found.get(key, 0) + 1
    assert found == {key: len(values) for key, values in rows_of(documents).items()}


def test_a_manager_of_files_is_taken_as_directory(tmp_path, example_data):
    documents = example_data()
    manager = MultiFileManager(tmp_path)

    artifacts = offbragg.export.nxsas.export(documents, manager)

    assert artifacts == manager.artifacts
    with h5py.File(artifacts["stream_data"][0]) as file:
        assert_holds(file, documents)


def test_a_manager_of_buffers_is_taken_as_directory(example_data):
    documents = example_data()

    (buffer,) = offbragg.export.nxsas.export(documents, MemoryBuffersManager())["stream_data"]
    tables = offbragg.export.csv.export(documents, MemoryBuffersManager())["stream_data"]

    with h5py.File(io.BytesIO(buffer.getvalue())) as file:
        assert_holds(file, documents)
    assert all(table.getvalue().startswith("seq_num,time,") for table in tables)


def test_a_serializer_takes_documents_one_by_one(tmp_path, example_data):
    documents = example_data()

    with offbragg.export.nxsas.Serializer(tmp_path, "{plan_name}-") as serializer:
        for name, doc in documents:
            serializer(name, doc)

    assert list(serializer.artifacts) == ["stream_data"]
    with h5py.File(serializer.artifacts["stream_data"][0]) as file:
        assert_holds(file, documents)
