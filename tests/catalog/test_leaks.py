"""Nobody learns anything of a proposal that is not theirs, whatever is asked, and however.

Two things are compared. The answers that somebody gets are the same, byte by byte, before anything
of another proposal is in the catalog and after; and what is somebody else's is answered as what
does not exist is. So lists, counts, searches, sorts, errors and tags are judged by one rule.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from catalog.owned import (
    LATER,
    NAMES,
    PASSWORD,
    World,
    asked_of,
    asked_of_all,
    heard,
    look,
    made_volume,
)
from postgresql import postgresql, why_not
from tiled.server.app import build_app_from_config
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as websocket

from offbragg.catalog import tiled_app
from offbragg.catalog.authentication import reading_key
from offbragg.catalog.configuration import server_configuration
from offbragg.catalog.named_keys import NamedKeys
from offbragg.catalog.one_time import create_token
from offbragg.catalog.route_rules import is_for_all
from offbragg.catalog.tiled_app import create_database
from offbragg.catalog.volumes import volume_key
from offbragg.files.volume_writer import write_volume

SOME = 400
"""Questions of each kind in the test that runs every time; the slow one asks all."""


pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]
)
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with ExitStack() as stack:
        database = None
        if request.param == "postgresql":
            if why := why_not():
                pytest.skip(why)
            database = stack.enter_context(postgresql()).create("catalog")
            create_database(database)
        made = World.make(tmp_path_factory.mktemp("owned"), database)
        stack.callback(made.server.end)
        made.mine.publish()
        yield made


@pytest.fixture(scope="module")
def paths(world: World) -> dict[str, Any]:
    with world.client("stan") as staff:
        return staff.get("/openapi.json").json()["paths"]


def some(questions: list[str], count: int | None) -> list[str]:
    if count is None or len(questions) <= count:
        return questions
    return random.Random(1).sample(questions, count)


def later_key(world: World) -> str:
    """Return the key that the volume of the other proposal will have."""
    scan = world.mine.runs[0].scan.path
    below = scan.relative_to(world.mine.folder)
    other = Path(str(below).replace(world.mine.word, world.theirs.word))
    return volume_key((world.theirs.folder / other).with_name(f"{world.theirs.word}.h5"))


@pytest.fixture(scope="module")
def both(world: World, paths: dict[str, Any]) -> int:
    """The catalog once it has both proposals; the number of questions on the way."""
    return compare(world, paths, SOME, ["ada"])


def questions_of(world: World, paths: dict[str, Any], count: int | None) -> list[str]:
    theirs, mine = world.theirs, world.mine
    found = list(asked_of_all(paths))
    found += asked_of(paths, theirs, later_key(world), theirs.uids[0], theirs.word)
    found += asked_of(paths, theirs, later_key(world), theirs.uids[1], theirs.word)
    found += asked_of(paths, mine, mine.keys[0], mine.uids[0], mine.word)
    found = list(dict.fromkeys(found))
    ours = [each for each in found if not each.startswith(("/api/", "/zarr/"))]
    rest = [each for each in found if each not in ours]
    return ours + some(rest, None if count is None else count - len(ours))


def ask_all(client: httpx.Client, questions: list[str]) -> dict[str, Any]:
    return {each: heard(client.get(each)) for each in questions}


def compare(world: World, paths: dict[str, Any], count: int | None, names: list[str]) -> int:
    """Ask everybody before the other proposal is there and after; return how many were asked."""
    questions = questions_of(world, paths, count)
    before = {}
    for name in names:
        with world.client(name) as client:
            ask_all(client, questions[:40])  # so that nothing is asked for the first time
            before[name] = ask_all(client, questions)
    world.theirs.publish()
    both = world.theirs.publish_volume(
        world.server.root / "both.h5", [world.mine.uids[0], world.theirs.uids[0]]
    )
    world.theirs.keys.append(both)
    (world.server.directory.parent / "look.json").write_text(
        json.dumps(look(world.theirs.uids[0], world.theirs.keys[0]))
    )
    assert later_key(world) == world.theirs.keys[0]
    asked = 0
    for name in names:
        with world.client(name) as client:
            after = ask_all(client, questions)
        changed = {q: (before[name][q], after[q]) for q in questions if before[name][q] != after[q]}
        assert changed == {}, name
        asked += 2 * len(questions)
        leaked = [q for q in questions for s in world.theirs.secrets
                if s in after[q][2] and s not in q and world.theirs.uids[0] not in q
                and world.theirs.uids[1] not in q]  # fmt: skip
        assert leaked == [], name
    return asked


def test_answers_are_the_same_whatever_others_have(both):
    assert both >= 2 * SOME


@pytest.mark.slow
def test_answers_to_all_questions_are_the_same_whatever_others_have(tmp_path):
    made = World.make(tmp_path / "owned")
    try:
        made.mine.publish()
        with made.client("stan") as staff:
            paths = staff.get("/openapi.json").json()["paths"]
        asked = compare(made, paths, None, ["ada", "bob", "olga"])
        assert asked > 5000
        for name in ("ada", "bob", "olga"):
            asked += _is_as_what_does_not_exist(made, paths, name, None)
        assert asked > 9000
    finally:
        made.server.end()


@pytest.mark.parametrize("name", ["bob", "olga"])
def test_what_is_others_is_answered_as_what_does_not_exist(world, both, paths, name):
    assert _is_as_what_does_not_exist(world, paths, name, 60) >= 120


def _is_as_what_does_not_exist(
    world: World, paths: dict[str, Any], name: str, count: int | None
) -> int:
    theirs = world.theirs
    uid, word = str(uuid.uuid4()), "z" * len(theirs.word)
    key = f"{word}-0123abcd"
    there = [
        (list(asked_of(paths, theirs, kept, run, theirs.word)), kept, run)
        for kept, run in zip(theirs.keys, theirs.uids, strict=False)
    ]
    asked = 0
    with world.client(name) as client:
        for questions, kept, run in there:
            absent = list(asked_of(paths, theirs, key, uid, word))
            pairs = list(zip(questions, absent, strict=True))
            for real, none in some(pairs, count):  # type: ignore[arg-type]
                names = ((run, uid), (run[:8], uid[:8]), (kept, key), (theirs.word, word))
                first = heard(client.get(real), *(each for each, _ in names))
                second = heard(client.get(none), *(each for _, each in names))
                assert first == second, (real, none)
                asked += 2
    return asked


def test_each_sees_what_is_theirs_and_staff_sees_everything(world, both):
    mine, theirs = world.mine, world.theirs
    a, b = set(mine.uids), set(theirs.uids)
    expected = {"ada": a, "bob": a, "eve": b, "mallory": b, "carol": a | b, "olga": set(),
                "stan": a | b}  # fmt: skip
    volumes = {"ada": mine.keys, "eve": theirs.keys[:1], "carol": [*mine.keys, *theirs.keys],
               "stan": [*mine.keys, *theirs.keys], "olga": []}  # fmt: skip
    for name in NAMES:
        with world.client(name) as client:
            listed = client.get("/runs").json()
            tiled = client.get("/api/v1/search/raw?fields=").json()
            kept = [each["key"] for each in client.get("/volumes").json()["volumes"]]
            root = client.get("/api/v1/search/").json()["data"]
        assert {row["uid"] for row in listed["runs"]} == expected[name], name
        assert listed["total"] == tiled["meta"]["count"] == len(expected[name])
        assert {each["id"] for each in tiled["data"]} == expected[name]
        counts = {each["id"]: each["attributes"]["structure"]["count"] for each in root}
        assert counts["raw"] == len(expected[name])
        if name in volumes:
            assert sorted(kept) == sorted(volumes[name])
            assert counts["volumes"] == len(kept)


# of Alembic, about the configuration that Tiled gives it
@pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")
def test_every_route_of_the_server_has_a_rule(tmp_path):
    (tmp_path / "files").mkdir()
    tiled_app.create_database(f"sqlite:///{tmp_path / 'catalog.db'}")
    app = build_app_from_config(server_configuration(tmp_path, [tmp_path], key="0123"))
    listed = app.openapi()["paths"]
    ways = {(m.upper(), path) for path, methods in listed.items() for m in methods}

    forbidden = {(m, p) for m, p in ways if not is_for_all(m, p.replace("{", "").replace("}", ""))}

    # a route that is not in here was added by a later Tiled: may people ask it, or staff only?
    assert {path for method, path in forbidden if method == "GET"} == {
        "/api/v1/webhooks/target/{path}", "/api/v1/webhooks/history/{webhook_id}",
        "/api/graphql", "/zarr/v2{path}.zattrs", "/zarr/v2{path}.zgroup",
    }  # fmt: skip
    assert {path for method, path in ways - forbidden if method not in ("GET", "HEAD")} == {
        "/api/v1/table/full/{path}", "/api/v1/table/partition/{path}",
        "/api/v1/container/full/{path}", "/api/v1/awkward/buffers/{path}",
    }  # fmt: skip


@pytest.mark.parametrize(
    "path", ["/metrics", "/api/graphql", "/custom/x", "/api/v1/new/raw", "/api/v1/auth/whoami",
             "/runs/x/new", "/live2", "/api/v1/metadata", "/api/v1/stream/single/raw/x"],
)  # fmt: skip
def test_a_route_without_a_rule_is_for_staff(world, path):
    with world.client("ada") as ada, world.client("stan") as staff:
        assert ada.get(path).status_code == 403
        assert "for staff" not in staff.get(path).text


def test_nobody_but_staff_changes_anything(world, both, paths):
    uid = world.mine.uids[0]
    with world.client("ada") as ada, world.client("stan") as staff:
        for path, ways in paths.items():
            for method in {"put", "post", "patch", "delete"} & ways.keys():
                where = path.replace("{path}", f"raw/{uid}").replace("{webhook_id}", "1")
                if is_for_all(method.upper(), where):
                    continue
                for who in (ada, staff):  # also staff who have logged in only read
                    answer = who.request(method, where, json={})
                    assert answer.status_code == 403, (method, where, answer.text)


# -- sockets ---------------------------------------------------------------------------------------


def closes(world: World, name: str, path: str) -> bool:
    url = world.server.url.replace("http", "ws") + path
    headers = {"Authorization": f"Apikey {world.keys[name]}"}
    try:
        with websocket(url, additional_headers=headers, open_timeout=20) as socket:
            socket.recv(timeout=3)
    except (ConnectionClosed, InvalidStatus):
        return True
    except TimeoutError:
        return False
    return False


def test_a_socket_opens_for_what_is_seen_only(world, both):
    single = "/api/v1/stream/single"
    mine, theirs = (f"{single}/raw/{each.uids[0]}" for each in (world.mine, world.theirs))

    for path in (f"{single}/raw", f"{single}/volumes", single + "/", theirs, f"{theirs}/primary",
                 f"{single}/raw/{uuid.uuid4()}", f"{single}/volumes/{world.theirs.keys[1]}",
                 f"{single}//raw", f"{single}/raw/"):  # fmt: skip
        assert closes(world, "ada", path), path
    assert not closes(world, "ada", mine)
    assert not closes(world, "stan", f"{single}/raw")


def test_what_the_beamline_does_is_shown_to_those_who_measure(world, both):
    uid = world.theirs.uids[0]
    seen: dict[str, Any] = {}
    for name in ("ada", "eve", "olga", "stan"):
        with world.client(name) as client:
            seen[name] = client.get("/now").json()
        headers = {"Authorization": f"Apikey {world.keys[name]}"}
        url = world.server.url.replace("http", "ws") + "/now/socket"
        with websocket(url, additional_headers=headers) as socket:
            pushed = json.loads(socket.recv(timeout=20))
        assert pushed["engine"] == seen[name]["engine"]

    assert seen["stan"]["engine"]["run"]["uid"] == seen["eve"]["engine"]["run"]["uid"] == uid
    assert seen["eve"]["live"]["volume"] == world.theirs.keys[0]
    assert seen["eve"]["alarms"] == seen["eve"]["disks"] == []
    for name in ("ada", "olga"):
        assert uid not in json.dumps(seen[name])
        assert seen[name]["engine"]["state"] == "others"
        assert (seen[name]["frames"], seen[name]["live"]) == (None, {})
    assert seen["olga"]["alarms"][0]["what"] == seen["olga"]["alarms"][0]["reason"] == "stall"
    with world.client("ada") as ada, world.client("eve") as eve:
        assert ada.get("/now/history").json()["curves"].get("temperature") is None
        assert eve.get("/now/history").json() != {"curves": {}}


# -- keys ------------------------------------------------------------------------------------------


def runs_with(world: World, key: str) -> set[str] | int:
    answer = httpx.get(f"{world.server.url}/runs", headers={"Authorization": f"Apikey {key}"})
    if answer.status_code != 200:
        return answer.status_code
    return {row["uid"] for row in answer.json()["runs"]}


def test_a_key_opens_what_its_owner_may_see(world, both):
    named = NamedKeys(world.server.directory, world.server.key)
    a, b = set(world.mine.uids), set(world.theirs.uids)

    def key(scope: Any, **owner: Any) -> str:
        return named.create(f"{scope} {owner}", scope=scope, ends=LATER, **owner)

    assert runs_with(world, key("read", person="carol")) == a | b
    assert runs_with(world, key("read", person="carol", proposals=["2026-B"])) == b
    assert runs_with(world, key("read", person="ada", proposals=["2026-B"])) == set()
    assert runs_with(world, key("read", proposals=["2026-A"])) == a
    assert runs_with(world, key("read", person="stan", proposals=["2026-A"])) == a
    assert runs_with(world, key("beamline")) == runs_with(world, key("staff")) == a | b
    assert runs_with(world, key("operator")) == set()
    assert runs_with(world, world.server.key) == a | b
    nameless = key("read")
    assert runs_with(world, nameless) == runs_with(world, key("read", person="nobody")) == 401
    assert runs_with(world, reading_key(world.server.key, ends=LATER)) == 401
    token = create_token(world.server.directory)
    entered = httpx.post(f"{world.server.url}/live/enter", json={"token": token})
    assert entered.status_code == 401


def test_people_who_leave_see_nothing_at_once(world, both):
    file = world.server.directory.parent / "people.toml"
    whole = file.read_text()
    try:
        file.write_text(whole.replace('"eve", ', ""))
        assert runs_with(world, world.keys["eve"]) == set()
        assert runs_with(world, world.keys["mallory"]) == set(world.theirs.uids)
        for wrong in (whole + "\n[", whole.replace("[people.eve]", "[persons.eve]"), ""):
            file.write_text(wrong)
            assert runs_with(world, world.keys["mallory"]) == 401
        file.write_text(whole)
        file.chmod(0o646)
        assert runs_with(world, world.keys["mallory"]) == 401
    finally:
        file.write_text(whole)
        file.chmod(0o600)
    assert runs_with(world, world.keys["eve"]) == set(world.theirs.uids)


# -- logging in ------------------------------------------------------------------------------------


def test_a_person_logs_in_with_a_password(world, both):
    a = set(world.mine.uids)
    with httpx.Client(base_url=world.server.url, timeout=60) as browser:
        ways = browser.get("/login/ways").json()
        tries = (("ada", "wrong"), ("nobody", PASSWORD), ("bob", ""), ("eve", PASSWORD))
        wrong = [browser.post("/login", json={"name": n, "password": p}) for n, p in tries]
        assert browser.get("/runs").status_code == 401
        entered = browser.post("/login", json={"name": "ada", "password": PASSWORD})
        listed = browser.get("/runs").json()["runs"]
        me = browser.get("/me").json()
        moved = browser.post("/login", json={"name": "ada", "password": PASSWORD},
                             headers={"origin": "http://elsewhere"})  # fmt: skip
    program = httpx.post(
        f"{world.server.url}/login", json={"name": "stan", "password": PASSWORD, "program": True}
    ).json()

    assert ways == {"people": True, "password": True, "oidc": False}
    assert {(each.status_code, each.text) for each in wrong} == {(401, wrong[0].text)}
    assert entered.status_code == 204
    assert {"HttpOnly", "SameSite=Strict"} <= {*entered.headers["set-cookie"].split("; ")}
    assert {row["uid"] for row in listed} == a
    assert me == {"name": "ada", "everything": False, "proposals": ["2026-A"],
                  "annotates": ["2026-A"]}  # fmt: skip
    assert moved.status_code == 403
    assert runs_with(world, program["key"]) == a | set(world.theirs.uids)
    assert program["ends"] > time.time() + 3600
    assert runs_with(world, program["key"][:-1] + "0") in (401, a | set(world.theirs.uids))
    assert PASSWORD not in world.server.log


def test_a_login_ends_by_a_line_in_the_file_of_people(world, both):
    file = world.server.directory.parent / "people.toml"
    whole = file.read_text()
    ada = {"name": "ada", "password": PASSWORD}
    with httpx.Client(base_url=world.server.url, timeout=60) as browser:
        browser.post("/login", json=ada).raise_for_status()
        before = browser.get("/runs").status_code
        try:
            file.write_text(whole.replace("[people.ada]\n", '[people.ada]\nlogins = "lost"\n'))
            ended = browser.get("/runs").status_code
            browser.post("/login", json=ada).raise_for_status()
            again = browser.get("/runs").status_code
        finally:
            file.write_text(whole)

    assert (before, ended, again) == (200, 401, 200)


@pytest.mark.parametrize("path", ["/", "/ui", "/view/v-1"])
def test_a_link_with_a_key_takes_no_login_away(world, path):
    answer = httpx.get(f"{world.server.url}{path}?api_key={world.keys['mallory']}", timeout=60)

    assert answer.status_code == 403
    assert "no key is taken from an address" in answer.json()["detail"]
    assert "set-cookie" not in answer.headers


# -- notes -----------------------------------------------------------------------------------------


def test_scientists_annotate_while_their_proposal_is_measured(world, both):
    mine, theirs = world.mine.uids[1], world.theirs.uids[1]

    def note(name: str, uid: str, text: str = "looks twinned", **more: Any) -> httpx.Response:
        with world.client(name) as client:
            return client.post(f"/runs/{uid}/notes", json={"text": text}, **more)

    absent = note("ada", str(uuid.uuid4()))
    assert note("ada", theirs).status_code == absent.status_code == 404
    assert note("ada", theirs).text == absent.text
    assert "while their proposal is measured" in note("ada", mine).text  # B was measured last
    assert note("eve", theirs).status_code == 403  # a member, not a scientist
    assert note("stan", theirs, "by staff").status_code == 200
    file = world.server.directory.parent / "people.toml"
    whole = file.read_text()
    members = 'members = ["eve", "mallory", "carol"]'
    file.write_text(whole.replace(members, f'{members}\nscientists = ["eve"]'))
    assert note("eve", theirs, "by eve").status_code == 200
    file.write_text(whole)
    assert note("eve", theirs).status_code == 403
    assert note("stan", mine, "x" * 3000).status_code == 400
    assert note("stan", mine, "bell\x07").status_code == 400
    assert note("stan", mine, headers={"origin": "http://elsewhere"}).status_code == 403

    with world.client("carol") as carol:
        found = carol.get(f"/runs/{theirs}/notes").json()["notes"]
        assert carol.get(f"/runs/{mine}/notes").json()["notes"] == []
    assert [(each["by"], each["text"]) for each in found] == [
        ("stan", "by staff"),
        ("eve", "by eve"),
    ]


def test_a_volume_written_again_of_other_runs_is_seen_no_more(world):
    mine, theirs = world.mine, world.theirs
    path = mine.runs[0].scan.path.with_name(f"{mine.word}.h5")
    key, series = mine.keys[0], f"/series/series-{mine.word}/order?at=1,1,1"
    plane = f"/volumes/{key}/plane?plane=hk0.5"
    questions = [plane, f"{plane}&format=json",
                 f"/api/v1/array/full/volumes/{key}/intensity?slice=0:1"]  # fmt: skip

    def ask(name: str) -> list[int]:
        with world.client(name) as client:
            return [client.get(each).status_code for each in questions]

    before = ask("bob")
    record = {"inputs": [{"run": theirs.uids[0], "file": "f1.h5"}]}
    path.rename(kept := path.with_name("kept"))
    write_volume(path.with_name("new.h5"), made_volume(mine.word), record).rename(path)
    after, staff = ask("bob"), ask("stan")
    with world.client("bob") as client:
        order = client.get(series)
    kept.replace(path)

    assert before == [200, 200, 200]
    assert after == [404, 404, 404]
    assert staff == [200, 200, 200]
    assert order.status_code != 200 or not order.json()["points"]
