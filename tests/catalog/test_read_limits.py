"""What is about to be read is counted from shapes alone, whatever the adapter."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from fastapi import HTTPException
from tiled.adapters.array import ArrayAdapter
from tiled.adapters.mapping import MapAdapter
from tiled.adapters.table import TableAdapter
from tiled.ndslice import NDBlock, NDSlice

from offbragg.catalog import read_limits
from offbragg.catalog.read_limits import CountedAdapter, about_to_read, answering


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """One request may read 1000 bytes, all together 2500."""
    monkeypatch.setattr(read_limits, "ANSWER", 1000)
    monkeypatch.setattr(read_limits, "AT_ONCE", 2500)


@pytest.fixture
def array() -> CountedAdapter:
    """400 bytes of 4, in four blocks."""
    made = ArrayAdapter.from_array(np.arange(1000, dtype="<i4"), chunks=((250,) * 4,))
    return CountedAdapter(made)


def refused(status: int):
    return pytest.raises(HTTPException, check=lambda error: error.status_code == status)


@pytest.mark.parametrize("asked", [NDSlice(...), NDSlice(slice(0, 10**12)), NDSlice(), ...])
def test_all_of_an_array_is_too_much(array, asked):
    with answering(), refused(400):
        array.read(asked)


def test_a_slice_is_read_and_counted_as_one(array):
    with answering():
        assert array.read(NDSlice(slice(0, 200)))[-1] == 199
        assert array.read_block(NDBlock(3), NDSlice(slice(0, 50)))[0] == 750
        with refused(400):
            array.read(NDSlice(0))


def test_each_request_is_counted_from_zero_and_nothing_is_left(array):
    for _ in range(5):
        with answering():
            array.read_block(NDBlock(0))
    assert read_limits._together == 0


def test_what_all_read_together_is_bounded():
    with answering():
        about_to_read(1000)
        with answering():
            about_to_read(1000)
            with answering(), refused(503):
                about_to_read(600)
            with answering():
                about_to_read(500)
    assert read_limits._together == 0


def test_text_takes_ten_times_as_much(array):
    with answering(written_out=True), refused(400):
        array.read(NDSlice(slice(0, 26)))
    with answering(written_out=True):
        array.read(NDSlice(slice(0, 25)))


def test_a_container_gives_nothing_uncounted(array):
    inner = MapAdapter({"a": array._adapter})
    outer = CountedAdapter(MapAdapter({"b": inner}))

    assert list(outer) == ["b"]
    items = dict(dict(outer.items())["b"].items())
    for way in (outer["b"]["a"], outer.get("b").get("a"), items["a"], outer.read()["b"]["a"]):
        with answering(), refused(400):
            way.read()
    assert outer.get("c") is None


def test_the_rows_of_a_table_are_counted():
    frame = pd.DataFrame({"a": np.arange(100.0), "b": ["word"] * 100})
    table = CountedAdapter(TableAdapter.from_pandas(frame, npartitions=1))

    with answering():
        assert len(table.read(["a"])) == 100
    with answering(), refused(400):
        table.read()
    with answering(), refused(400):
        table.read_partition(0, ["a", "b"])


def test_a_table_in_a_database_is_counted_before_it_is_read(tmp_path, monkeypatch):
    from tiled.adapters.sql import SQLAdapter
    from tiled.storage import EmbeddedSQLStorage, register_storage
    from tiled.structures.core import StructureFamily
    from tiled.structures.data_source import DataSource, Management
    from tiled.structures.table import TableStructure

    table = pa.table({"a": np.arange(200.0)})
    storage = EmbeddedSQLStorage(f"duckdb:///{tmp_path / 'tables.duckdb'}")
    register_storage(storage)
    source = SQLAdapter.init_storage(
        storage,
        DataSource(
            management=Management.writable,
            mimetype="application/x-tiled-sql-table",
            structure_family=StructureFamily.table,
            structure=TableStructure.from_arrow_table(table),
        ),
    )
    adapter = SQLAdapter(source.assets[0].data_uri, source.structure, **source.parameters)
    adapter.append_partition(0, table)
    monkeypatch.setattr(SQLAdapter, "_read_full_table_or_partition", None)

    with answering(), refused(400):
        CountedAdapter(adapter).read()
    storage.dispose()
