"""People log in with the account of a provider: authlib's, over HTTP, with signed tokens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from catalog.oidc_provider import CLIENT, SECRET, Provider
from catalog.owned import PEOPLE
from joserfc.jwk import RSAKey

from offbragg.catalog.authentication import WrongKeys
from offbragg.catalog.door import Authentication
from offbragg.catalog.login import Login
from offbragg.catalog.passwords import hash_password
from offbragg.catalog.people import PeopleFile, read_people
from offbragg.catalog.provider import RETURN, ProviderLogin
from offbragg.catalog.viewers import viewer

KEY, CATALOG = "0123456789abcdef", "http://catalog.example"
HASH = hash_password("long enough to be one")


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    made = Provider(CATALOG + RETURN)
    yield made
    made.close()


@pytest.fixture
def file(tmp_path, provider) -> PeopleFile:
    provider.subject, provider.claims, provider.key = "ada-at-the-provider", {}, provider.published
    path, secret = tmp_path / "people.toml", tmp_path / "oidc-secret"
    path.write_text(
        f"{PEOPLE.format(hash=HASH)}\n[oidc]\n"
        f'discovery = "{provider.issuer}/.well-known/openid-configuration"\n'
        f'client_id = "{CLIENT}"\nclient_secret_file = "oidc-secret"\naddress = "{CATALOG}"\n'
    )
    secret.write_text(SECRET + "\n")
    for each in (path, secret):
        each.chmod(0o600)
    return PeopleFile(path)


async def who(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the name of who asks."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": viewer().name.encode()})


def talk(file: PeopleFile, steps: Any) -> Any:
    """Run the steps of a browser against a catalog's doors."""
    app: Any = Authentication(who, KEY, people=file)
    app = Login(app, key=KEY, people=file, wrong=WrongKeys())

    async def run() -> Any:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url=CATALOG) as browser:
            return await steps(browser)

    return asyncio.run(run())


async def sent_away(browser: httpx.AsyncClient) -> str:
    """Begin to log in; return the address to which the provider leads back."""
    away = await browser.get("/login/oidc")
    assert away.status_code == 302, away.text
    back = await asyncio.to_thread(httpx.get, away.headers["location"])
    assert back.status_code == 302, back.text
    return back.headers["location"]


async def logged_in(browser: httpx.AsyncClient) -> httpx.Response:
    return await browser.get(await sent_away(browser))


def test_who_has_an_account_of_the_provider_is_let_in_as_the_person_of_the_file(file):
    async def steps(browser: httpx.AsyncClient) -> Any:
        before = await browser.get("/")
        returned = await logged_in(browser)
        return before, returned, await browser.get("/"), await browser.get("/login/ways")

    before, returned, after, ways = talk(file, steps)

    assert (before.status_code, returned.status_code, after.text) == (401, 200, "ada")
    cookie = returned.headers["set-cookie"]
    assert "tiled_api_key=login" in cookie
    assert "SameSite=Strict" in cookie
    assert "url=/live" in returned.text
    assert ways.json()["oidc"] is True


def test_what_is_sent_to_the_provider_binds_what_comes_back(file):
    async def steps(browser: httpx.AsyncClient) -> Any:
        return await browser.get("/login/oidc")

    first, second = talk(file, steps), talk(file, steps)
    asked, again = (parse_qs(urlsplit(e.headers["location"]).query) for e in (first, second))

    assert asked["code_challenge_method"] == ["S256"]
    assert asked["redirect_uri"] == [CATALOG + RETURN]
    for name in ("state", "nonce", "code_challenge"):
        assert asked[name] != again[name]
        assert len(asked[name][0]) >= 43
    assert "HttpOnly" in first.headers["set-cookie"]
    assert SECRET not in first.headers["location"] + first.headers["set-cookie"]


def test_a_login_of_another_browser_is_not_accepted(file):
    async def steps(browser: httpx.AsyncClient) -> Any:
        location = await sent_away(browser)
        kept = dict(browser.cookies)
        browser.cookies.clear()
        without = await browser.get(location)
        await browser.get("/login/oidc")  # one of its own
        crossed = await browser.get(location)
        browser.cookies.clear()
        for name, value in kept.items():
            browser.cookies.set(name, value[:-1] + "x")
        spoilt = await browser.get(location)
        return without, crossed, spoilt, await browser.get("/")

    *refused, after = talk(file, steps)

    assert [each.status_code for each in refused] == [401] * 3
    assert all("not begun in this browser" in each.text for each in refused)
    assert after.status_code == 401


def test_a_code_is_good_once(file):
    async def steps(browser: httpx.AsyncClient) -> Any:
        location = await sent_away(browser)
        first = await browser.get(location)
        return first, await browser.get(location)

    first, second = talk(file, steps)

    assert (first.status_code, second.status_code) == (200, 401)


def test_an_account_that_is_not_in_the_file_is_not_let_in(file, provider):
    provider.subject = "somebody-else"

    answer = talk(file, logged_in)

    assert (answer.status_code, "not one of the catalog's people" in answer.text) == (403, True)
    assert "tiled_api_key" not in answer.headers.get("set-cookie", "")


def test_a_token_that_somebody_else_signed_is_refused(file, provider):
    provider.key = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"}, private=True)

    answer = talk(file, logged_in)

    assert answer.status_code == 401
    assert "not accepted" in answer.text


@pytest.mark.parametrize("algorithm", ["HS256", "none"])
def test_a_token_that_is_not_signed_with_the_providers_key_is_refused(file, provider, algorithm):
    """A public key used as secret of HMAC, or no signature: known holes of such checks."""
    settings = read_people(file.path).oidc
    assert settings is not None
    login = ProviderLogin(KEY)
    checks = asyncio.run(login._authenticator(settings, file.path.parent))
    claims = {"sub": "ada-at-the-provider", "iss": provider.issuer, "aud": CLIENT,
              "exp": time.time() + 60}  # fmt: skip
    forged = jwt.encode(claims, "x" * 64 if algorithm != "none" else None, algorithm,
                        headers={"kid": "one"})  # fmt: skip

    with pytest.raises(jwt.PyJWTError):
        checks.decode_token(forged)


def test_an_address_that_was_not_verified_is_not_a_person(file, provider):
    path = file.path
    path.write_text(path.read_text() + 'claim = "email"\n')
    for verified, status in ((False, 401), (None, 401), (True, 200)):
        provider.claims = {"email": "ada-at-the-provider"}
        if verified is not None:
            provider.claims["email_verified"] = verified

        assert talk(file, logged_in).status_code == status, verified


def test_a_provider_that_is_away_is_said(file):
    path = file.path
    path.write_text(path.read_text().replace("/.well-known", "/nothing"))

    async def steps(browser: httpx.AsyncClient) -> Any:
        return await browser.get("/login/oidc")

    answer = talk(file, steps)

    assert (answer.status_code, "cannot be used now" in answer.text) == (502, True)


def test_a_secret_that_others_can_read_is_not_used(file):
    (file.path.parent / "oidc-secret").chmod(0o644)

    async def steps(browser: httpx.AsyncClient) -> Any:
        return await browser.get("/login/oidc")

    assert "others can read oidc-secret" in talk(file, steps).text
