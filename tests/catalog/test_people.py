"""The file of people, their passwords, and who sees what with which key."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import httpx
import pytest
from catalog.owned import PEOPLE
from click.testing import Result
from runs import MeasuredRun
from typer.testing import CliRunner

from offbragg.beamline.config import load
from offbragg.beamline.limits import check_start
from offbragg.catalog.admission import Admissions
from offbragg.catalog.authentication import TRIES as KEYS
from offbragg.catalog.authentication import WrongKeys
from offbragg.catalog.login import TRIES, Login
from offbragg.catalog.named_keys import NamedKeys
from offbragg.catalog.passwords import NOBODYS, hash_password, is_hash, is_password
from offbragg.catalog.people import PeopleFile, read_people
from offbragg.catalog.sessions import read_session, session_key
from offbragg.catalog.socket_shares import SHARE, SocketShares
from offbragg.catalog.viewers import EVERYTHING
from offbragg.cli.app import app
from offbragg.errors import CatalogError, ConfigError, MetadataError

KEPT = hash_password("correct horse battery")
KEY = "0123456789abcdef"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "people.toml"
    path.write_text(PEOPLE.format(hash=KEPT))
    path.chmod(0o600)
    return path


def test_a_password_is_kept_as_scrypt_hash_that_openssl_computes_alike():
    """RFC 7914, section 12: the fourth vector has N = 2¹⁴; ours differs in N alone."""
    vector = hashlib.scrypt(b"pleaseletmein", salt=b"SodiumChloride", n=16384, r=8, p=1,
                            maxmem=2**26, dklen=64)  # fmt: skip

    assert vector.hex().startswith("7023bdcb3afd7348461c06cd81fd38eb")
    assert is_hash(KEPT)
    assert is_hash(NOBODYS)
    assert hash_password("correct horse battery") != KEPT, "each has a salt of its own"
    assert not any(is_password(each, NOBODYS) for each in ("", "correct horse battery"))
    assert not any(is_password("correct horse battery", each) for each in ("", KEPT[:-2], "x"))


@pytest.mark.parametrize("password", ["", "too short", "x" * 201])
def test_a_password_of_a_wrong_length_is_refused(password):
    with pytest.raises(CatalogError, match="characters"):
        hash_password(password)


def test_people_see_the_proposals_that_name_them_or_their_groups(file):
    people = read_people(file)
    seen = {name: people.viewer(name) for name in people.people}

    assert seen["ada"].sees == {"2026-A"}
    assert seen["ada"].annotates == {"2026-A"}
    assert seen["bob"].sees == {"2026-A"}
    assert seen["bob"].annotates == frozenset()
    assert seen["carol"].sees == {"2026-A", "2026-B"}
    assert (seen["stan"].sees, seen["stan"].annotates) == (EVERYTHING, EVERYTHING)
    assert (seen["olga"].sees, seen["olga"].host) == (frozenset(), True)
    assert people.viewer("nobody") is None
    assert people.viewer("carol") is seen["carol"], "it is found once: each request asks"
    assert people.by_oidc("ada-at-the-provider") == "ada"
    assert people.by_oidc("") is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[people.bob]", "[people.bob", "not valid TOML"),
        ("[people.bob]", "[people.'b b']", "people"),
        ("[people.bob]", "[people.bob]\nrole = 'boss'", "people.bob.role"),
        ("[people.bob]", "[people.bob]\npassword = 'plain'", "must be a hash"),
        ("[people.bob]", "[people.bob]\noidc = 'ada-at-the-provider'", "several people"),
        ("[people.bob]", "[people.bob]\nstaff = true", "people.bob.staff"),
        ('"@diffuse"', '"@defuse"', "names @defuse, not one of groups"),
        ('"mallory", ', '"malory", ', "names malory, not one of people"),
        ('"bob", ', '"rob", ', "groups.diffuse names rob"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_what_and_where(file, old, new, words):
    file.write_text(file.read_text().replace(old, new, 1))

    with pytest.raises(ConfigError, match=words) as caught:
        read_people(file)

    assert str(file) in str(caught.value)
    assert "plain" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o602, 0o666, 0o000])
def test_a_file_that_others_write_or_read_is_refused(file, mode):
    file.chmod(mode)

    if mode:  # root reads what has no permission
        with pytest.raises(ConfigError, match="others may read or write"):
            read_people(file)
    file.chmod(0o640)
    assert read_people(file).people


def test_a_file_is_read_again_when_it_has_changed_and_lets_nobody_in_when_it_is_wrong(file):
    people = PeopleFile(file)
    whole = file.read_text()
    first = people.now()

    assert first is not None
    assert people.now() is first, "it is not read again"
    file.write_text(whole + "[")
    assert people.now() is None
    assert people.now() is None
    file.unlink()
    assert people.now() is None
    file.write_text(
        whole.replace("[people.mallory]", "[people.mike]").replace('"mallory"', '"mike"')
    )
    file.chmod(0o600)
    again = people.now()
    assert again is not None
    assert "mike" in again.people


def test_a_login_ends_with_its_time_the_person_and_the_password(file):
    people = read_people(file)
    made = session_key(KEY, people, "ada", ends=2e9)

    assert read_session(made, KEY, people) == ("ada", 2e9)
    for other in (made.replace("login00", "login01"), made[:-1] + ("0" if made[-1] != "0" else "1"),
                  made.replace("616461", "626f62"), made + "0", made.upper(), "login"):  # fmt: skip
        assert read_session(other, KEY, people) is None, other
    assert read_session(made, KEY[::-1], people) is None
    for old, new in ((KEPT, hash_password("another password")), ("[people.ada]", "[people.ad]")):
        file.write_text(PEOPLE.format(hash=KEPT).replace(old, new).replace('["ada"]', "[]"))
        assert read_session(made, KEY, read_people(file)) is None


@pytest.fixture
def beamline(file):
    folder = file.parent
    (folder / "catalog").mkdir()
    (folder / "catalog" / "key").write_text(KEY)
    toml = folder / "beamline.toml"
    paths = "\n".join(f'{name} = "{name}"' for name in
                      ("experiment", "frames", "journal", "catalog", "log"))  # fmt: skip
    toml.write_text(f'beamline_id = "test"\n[paths]\n{paths}\n[catalog]\npeople = "people.toml"\n')
    return toml


def typed(*words: str, given: str | None = None) -> Result:
    return CliRunner().invoke(app, [*words], input=given)


def test_the_verb_people_lists_who_sees_what_and_makes_hashes(beamline, file):
    listed = typed("people", "--beamline", str(beamline)).stdout.splitlines()
    hashed = json.loads(typed("people", "--hash", "--json", given="correct horse\n").stdout)
    file.write_text(file.read_text() + "[")
    wrong = typed("people", "--beamline", str(beamline))

    assert listed[0] == "ada  user  password or oidc  proposals: 2026-A"
    assert listed[4] == "carol  user  a key only  proposals: 2026-A, 2026-B"
    assert listed[5:] == ["olga  operator  a key only  proposals: none",
                          "stan  staff  password  proposals: all"]  # fmt: skip
    assert is_password("correct horse", hashed["password"])
    assert isinstance(wrong.exception, ConfigError)


def test_a_key_that_would_open_nothing_is_not_made(beamline, file):
    def token(*words: str) -> Result:
        return typed("token", *words, "--beamline", str(beamline))

    for words, why in (
        (("a",), "needs an owner"),
        (("b", "--person", "nobody"), "there is no person nobody"),
        (("c", "--proposal", "2026-X"), "there is no proposal 2026-X"),
        (("d", "--scope", "staff", "--person", "ada"), "nobody's"),
    ):
        done = token(*words)
        assert isinstance(done.exception, CatalogError), words
        assert why in str(done.exception)
    assert isinstance(typed("key", "--beamline", str(beamline)).exception, CatalogError)
    made = token("laptop", "--person", "ada", "--proposal", "2026-A", "--scope", "annotate")
    admissions = Admissions(KEY, NamedKeys(file.parent / "catalog", KEY), PeopleFile(file))
    viewer = admissions.of(made.stdout.strip()).viewer

    assert (viewer.name, viewer.sees, viewer.annotates) == ("ada", {"2026-A"}, {"2026-A"})
    assert token().stdout.startswith("laptop  annotate  ada  2026-A  expires ")


def test_frames_without_a_proposal_are_refused_where_there_are_people(beamline):
    config = load(beamline)
    good = {**MeasuredRun(beamline.parent / "run").start}
    good.pop("per_frame")

    for wrong in ({}, {"proposal": 117}, {"proposal": ""}, {"proposal": "x" * 101}):
        with pytest.raises(MetadataError, match="proposal is"):
            check_start(config, {**good, **wrong})
    check_start(config, {"plan_name": "count"})  # it makes no frames


def test_a_key_for_some_proposals_stays_so_without_people(file):
    """Someone takes ``people`` out of beamline.toml: what was given for a part opens no more."""
    named = NamedKeys(file.parent, KEY)
    part = named.create("part", scope="read", ends=4e9, proposals=["2026-A"])
    person = named.create("of ada", scope="read", ends=4e9, person="ada")
    plain = named.create("plain", scope="read", ends=4e9)
    admissions = Admissions(KEY, named, None)

    assert admissions.of(part).viewer.sees == {"2026-A"}
    assert admissions.of(person).right == "none"
    assert admissions.of(plain).viewer.sees == EVERYTHING
    with_people = Admissions(KEY, named, PeopleFile(file))
    assert with_people.of(part).viewer.sees == {"2026-A"}
    file.write_text(file.read_text() + "[")
    assert with_people.of(part).right == "none", "while the file cannot be read"


def test_passwords_that_are_tried_at_once_are_counted_before_they_are_compared(file):
    login = Login(None, key=KEY, people=PeopleFile(file), wrong=WrongKeys())  # type: ignore[arg-type]
    there = httpx.ASGITransport(login)

    async def send(name: str, password: str) -> int:
        async with httpx.AsyncClient(transport=there, base_url="http://catalog") as client:
            body = {"name": name, "password": password}
            return (await client.post("/login", json=body)).status_code

    async def send_all() -> tuple[list[int], list[int], list[int]]:
        right = [await send("ada", "correct horse battery") for _ in range(TRIES + 1)]
        at_once = await asyncio.gather(*(send("ada", "wrong") for _ in range(TRIES + 5)))
        more = [await send(f"n{i}", "wrong") for i in range(KEYS - TRIES)]
        return right, at_once, [*more[:-1], await send("stan", "correct horse battery")]

    right, at_once, more = asyncio.run(send_all())

    assert right == [204] * (TRIES + 1), "these do not count"
    assert sorted(at_once) == [401] * TRIES + [429] * 5
    assert more == [401] * (KEYS - TRIES - 1) + [429], "the address has used up its tries"


def test_a_person_has_one_share_of_websockets_with_all_of_their_keys(file):
    named, opened = NamedKeys(file.parent, KEY), []
    keys = [named.create(f"k{i}", scope="read", ends=4e9, person="ada") for i in range(2)]
    other = named.create("other", scope="read", ends=4e9, person="bob")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        opened.append(scope["headers"])
        await asyncio.Event().wait()

    async def closed(message: Any) -> None:
        assert message["type"] == "websocket.close"

    async def talk() -> None:
        shares = SocketShares(app, Admissions(KEY, named, PeopleFile(file)))
        for key in [*keys * SHARE, other]:
            scope = {"type": "websocket", "path": "/now/socket", "query_string": b"",
                     "headers": [(b"authorization", f"Apikey {key}".encode())]}  # fmt: skip
            kept.append(asyncio.create_task(shares(scope, closed, closed)))
        await asyncio.sleep(0.1)

    kept: list[asyncio.Task[None]] = []
    asyncio.run(talk())

    assert len(opened) == SHARE + 1
