"""What cannot be answered is refused: no question makes the server fail."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from tiled.client.utils import ClientError
from tiled.queries import Key

from offbragg.catalog.questions import troubles

BAD = ["null", "{}", "[]", '{"a": 1}', "[null]", "[[1]]", "not json", "", "-", "9" * 30,
       '"\\ud800"', "[" * 5000, "\0", "é", "0:0:0", "...", ",", "%", '"']  # fmt: skip
RIGHT = {"key": "sample.name", "value": '"a"', "operator": "lt", "pattern": '"a"', "text": "a"}


@pytest.fixture(scope="module")
def http(server):
    with httpx.Client(
        base_url=server.url, headers={"Authorization": f"Apikey {server.key}"}, timeout=60
    ) as client:
        yield client


def parameters_of(http: httpx.Client, path: str) -> list[str]:
    found = http.get("/openapi.json").json()["paths"][path]["get"]["parameters"]
    return [one["name"] for one in found if one["in"] == "query"]


def ask(http: httpx.Client, path: str, name: str, names: list[str], value: str) -> httpx.Response:
    """Ask with one value, and good ones for what belongs to it."""
    query = {name: value}
    if name.startswith("filter["):
        kind = name.partition("]")[0]
        for other in names:
            if other.startswith(kind) and other != name:
                field = other.rpartition("[")[2][:-1]
                query[other] = RIGHT.get(field, '["a"]')
    return http.get(path, params=query)


def failures(http: httpx.Client, route: str, node: str, values: list[str], step: int) -> list[Any]:
    names = parameters_of(http, f"/api/v1/{route}/{{path}}")
    found: list[Any] = []
    for number, name in enumerate(names):
        for value in values[number % step :: step]:
            answer = ask(http, f"/api/v1/{route}/{node}", name, names, value)
            if answer.status_code >= 500 or (answer.is_error and not answer.json()["detail"]):
                found.append((name, value, answer.status_code, answer.text))
    return found


@pytest.mark.parametrize("route", ["search", "distinct"])
def test_no_value_of_a_search_is_a_failure_of_the_server(http, whole, route):
    assert failures(http, route, "raw", BAD, 5) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "route",
    ["search", "search-deep", "distinct", "metadata", "revisions", "array/full", "array/block",
     "table/full", "table/partition", "node/full", "container/full", "asset/bytes"],
)  # fmt: skip
def test_no_value_of_any_parameter_is_a_failure_of_the_server(http, whole, route):
    run = f"raw/{whole.uid}"
    for node in ("raw", run, f"{run}/primary", f"{run}/primary/pilatus_image",
                 f"{run}/primary/internal", "raw/none"):  # fmt: skip
        assert failures(http, route, node, BAD, 1) == []


@pytest.mark.parametrize("kind", ["eq", "noteq", "contains", "comparison"])
@pytest.mark.parametrize("value", ["null", "{}", "[1]", '{"a": 1}', "a text", "9" * 30])
def test_a_value_that_is_none_is_refused_by_its_name(http, kind, value):
    query = {
        f"filter[{kind}][condition][key]": "scan_id",
        f"filter[{kind}][condition][value]": value,
    }
    if kind == "comparison":
        query["filter[comparison][condition][operator]"] = "lt"

    answer = http.get("/api/v1/search/raw", params=query)

    assert answer.status_code == 400
    assert f"filter[{kind}][condition][value] is {value[:20]}" in answer.json()["detail"]


def test_a_client_gets_the_reason_at_once(cat):
    with pytest.raises(ClientError, match="it must be a text in quotes, a number"):
        len(cat.search(Key("sample") == {"name": "LSMO-140"}))


@pytest.mark.parametrize("value", ["1", "1.5", '"a"', "true", "-9223372036854775808", '"é"'])
def test_what_can_be_answered_is_not_in_trouble(value):
    assert not list(troubles(f"filter[eq][condition][key]=a&filter[eq][condition][value]={value}"))


@pytest.mark.parametrize("asked", ["0:0", "5:5,:,:", "2,0:0"])
def test_a_slice_of_nothing_is_nothing(http, whole, asked):
    node = f"raw/{whole.uid}/primary/pilatus_image"
    for path in (f"array/full/{node}?slice={asked}", f"array/block/{node}?block=0,0,0&slice=0:0"):
        answer = http.get(f"/api/v1/{path}")

        assert answer.status_code == 200
        assert answer.content == b""
