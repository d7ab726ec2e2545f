"""No number in a document becomes another on its way to a reader of the catalog."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import numpy as np
import pytest
from catalog.served import Documents
from event_model import DocumentNames, schema_validators

from offbragg.catalog.exact import Columns, storable
from offbragg.errors import CatalogError

NS = 1_795_865_463_021_053_437
NUMBERS: dict[str, Any] = {
    "large": 1e300, "largest": 1.7976931348623157e308, "smallest": 5e-324, "minus_zero": -0.0,
    "whole": float(2**60), "tenth": 0.1, "time_ns": NS, "int64": -(2**63), "uint64": 2**64 - 1,
    "nested": {"list": [2**53 + 1, [1e300, {"deep": 2**63}]]}, "true": True, "none": None,
    "text": "9007199254740993",
}  # fmt: skip
CONFIGURATION: dict[str, Any] = {
    **{key: NUMBERS[key] for key in ("large", "minus_zero", "time_ns", "uint64")},
    "inf": math.inf, "minus_inf": -math.inf, "nan": math.nan, "beyond": 2**70, "below": -(2**70),
    "list": [math.inf, 1.5],
}  # fmt: skip
EVENTS: dict[str, list[Any]] = {
    "int64": [2**63 - 1, -(2**63), NS],
    "uint64": [2**64 - 1, 5, 0],
    "float": [math.nan, -math.inf, -0.0],
    "tiny": [5e-324, 1e300, 0.1],
    "mixed": [1, 2.5, 2**53],
    "true": [True, False, True],
    "text": ["a", "", "é"],
    "integers": [[2**60 + 1, 2], [3, 4], [5, 6]],
    "digits": [[0.12345678901234567, 1e300], [math.nan, 1.0], [1, 2]],
    "many": [[2**60 + 1] * 17, [1] * 17, [0] * 17],
    "texts": [["a", "bb"], ["c", "ddd"], ["", "e"]],
    "square": [[[1, 2], [3, 4]]] * 3,
}


@pytest.fixture(scope="module")
def published(server, cat) -> Any:
    """A run whose start, configuration, events and stop are full of extreme numbers."""
    documents = Documents(cat, server.root / "exact", numbers=NUMBERS, **NUMBERS)
    documents.stream(EVENTS, configuration=CONFIGURATION)
    return documents.stop(numbers=NUMBERS, reason="a \udc80 b").publish()


def same(one: Any, other: Any) -> bool:
    """Equal, of the same type, and with the same sign of zero."""
    return repr(one) == repr(other)


def equal(one: Any, other: Any) -> bool:
    """Equal in value, nested lists too, with the same sign of zero."""
    if isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(other, float) and other in (0.0, -0.0):
        return same(float(one), other)
    return bool(one == other) or (one != one and other != other)


@pytest.mark.parametrize("which", ["start", "stop"])
def test_metadata_is_what_the_journal_has_over_msgpack_and_json(published, server, which):
    url = f"{server.url}/api/v1/metadata/raw/{published.start['uid']}"
    answer = httpx.get(url, headers={"Authorization": f"Apikey {server.key}"}, trust_env=False)
    over_http = json.loads(answer.text)["data"]["attributes"]["metadata"][which]

    assert same(dict(published.metadata[which]["numbers"]), NUMBERS)
    assert same(over_http["numbers"], NUMBERS)
    if which == "start":
        assert all(same(published.start[key], value) for key, value in NUMBERS.items())


def test_configuration_is_what_the_devices_gave(published, server):
    stream = published["primary"]

    there = dict(stream.metadata["configuration"]["device"]["data"])
    (_, descriptor), *_ = [pair for pair in published.documents() if pair[0] == "descriptor"]

    assert same(there, CONFIGURATION)
    assert same(descriptor["configuration"]["device"]["data"], CONFIGURATION)
    assert same(stream.descriptors[0]["configuration"]["device"]["data"], CONFIGURATION)


@pytest.fixture(scope="module")
def rows(published):
    return published["primary"].read()


@pytest.mark.parametrize("key", EVENTS)
def test_values_of_events_are_exact(published, rows, key):
    stream = published["primary"]

    for read in (rows[key].to_numpy().tolist(), np.asarray(stream[key].read()).tolist()):
        assert equal(read, EVENTS[key])


def test_databroker_and_documents_give_the_same_values(published, cat):
    table = cat.v1[published.start["uid"]].table()
    events = [doc["data"] for name, doc in published.documents() if name == "event"]

    for key, values in EVENTS.items():
        for read in (table[key].tolist(), [event[key] for event in events]):
            assert equal(read, values)


def test_all_of_it_is_valid(published):
    for name, doc in published.documents():
        schema_validators[DocumentNames[name]].validate(doc)


def test_rows_know_their_time(published):
    rows = published["primary"].read(["int64"]).to_dataframe()

    assert rows.index.name == "time"
    assert rows.index.tolist() == [2.0, 3.0, 4.0]


def test_old_journals_with_what_is_refused_now_are_published_as_text(server, cat):
    bad = {"inf": math.inf, "nan": math.nan, "beyond": 2**70, "text": "a\ud800b", "x\udc80": 1}
    documents = Documents(cat, server.root / "exact", **bad)

    run = documents.stream({"x": ["\udc80", "y"]}).stop(reason="\udc80").publish()

    assert {key: run.start[key] for key in list(bad)[:4]} == {
        "inf": "Infinity", "nan": "NaN", "beyond": "1180591620717411303424", "text": "a\\ud800b",
    }  # fmt: skip
    assert run.start["x\\udc80"] == 1
    assert run.stop["reason"] == "\\udc80"
    assert run["primary"]["x"].read().tolist() == ["\\udc80", "y"]


def test_limits_that_are_nan_are_none(server, cat):
    limits = {"control": {"low": math.nan, "high": 5.0}}
    documents = Documents(cat, server.root / "exact").stream({"x": [1.0]}, limits=limits)

    run = documents.stop().publish()

    (descriptor,) = run["primary"].descriptors
    assert descriptor["data_keys"]["x"]["limits"] == {"control": {"low": None, "high": 5.0}}


# -- columns ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([2**60 + 1, 2.5], ["1152921504606846977", "2.5"]),
        ([2**60 + 1, None], ["1152921504606846977", "null"]),
        ([1, None], [1.0, math.nan]),
        ([2**64 + 1, -1], ["18446744073709551617", "-1"]),
        ([1, "x", True], ["1", '"x"', "true"]),
        ([True, 1], ["true", "1"]),
        ([{"a": 1}, 2.0], ['{"a": 1}', "2.0"]),
        ([[], [1]], ["[]", "[1]"]),
        ([[1, "x"], [2, 3]], ['[1, "x"]', "[2, 3]"]),
        ([["a\0"], ["b"]], ['["a\\u0000"]', '["b"]']),
        ([None, [1, 2]], ["null", "[1, 2]"]),
    ],
    ids=repr,
)
def test_what_no_type_holds_is_text(values, kept):
    rows, arrays = Columns().split([{"x": value} for value in values], {})

    assert not arrays
    assert repr([row["x"] for row in rows]) == repr(kept)


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (1, 2.5), (True, 3), (2.5, 2**60 + 1), (None, 1), (1, None), ("a", 1), (2**63, -1),
        ([1, 2], [0.5, 2]), ([1, 2], [1, 2, 3]), ([True], [2]), (["a"], ["b" * 200]), ([1], None),
    ],
    ids=repr,
)  # fmt: skip
def test_a_value_that_a_column_cannot_hold_is_not_forced_into_it(first, later):
    columns = Columns()
    columns.split([{"x": first}], {})

    with pytest.raises(CatalogError, match="x has a value that the type of its column cannot hold"):
        columns.split([{"x": later}], {})

    Columns().split([{"x": first}, {"x": later}], {})  # together they have a type


def test_a_declared_type_is_used_if_it_holds_the_values():
    def of(declared: str, value: Any) -> str:
        _, arrays = Columns().split([{"x": value}], {"x": {"dtype_numpy": declared}})
        return str(arrays["x"].dtype)

    assert of("<f4", [0.5, 2.0]) == "float32"
    assert of("<f4", [0.1, 2.0]) == "float64"
    assert of("|u1", [1, 255]) == "uint8"
    assert of("|u1", [1, 256]) == "int64"
    assert of("<i4", [1, -0.0]) == "float64"


def test_what_json_can_keep_is_left_as_it_is():
    assert same(storable(NUMBERS), NUMBERS)
