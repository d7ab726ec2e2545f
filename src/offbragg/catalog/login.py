"""Log people in: ``/login`` with a password, ``/login/oidc`` with the facility's own accounts.

A browser gets a cookie, and a program a key; both are those of `sessions`. Whether a name or the
password is wrong makes no difference, in words or in time.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from offbragg.catalog.authentication import (
    App,
    Receive,
    Scope,
    Send,
    WrongKeys,
    is_of_another_page,
    refuse,
)
from offbragg.catalog.page import LEAD, STRICT, cookie, page_policy, read_body
from offbragg.catalog.passwords import NOBODYS, is_password
from offbragg.catalog.people import People, PeopleFile
from offbragg.catalog.provider import COOKIE as STATE
from offbragg.catalog.provider import LoginFailed, ProviderLogin
from offbragg.catalog.sent import Refusal, begin
from offbragg.catalog.sessions import session_key

PATH = "/login"
HOURS = 12.0  # until somebody has to log in again
TRIES = 10  # wrong passwords for one name in a minute
_MINUTE = 60.0
_WAITING = 20  # passwords that are compared, or wait for it
_NAMES = 10_000  # in a minute; all further ones are counted as one
_WRONG = "The name or the password is wrong."
_NO_PEOPLE = "This catalog has no people: it is read with a key."


class Login:
    """Answers requests to log in, and passes on all others.

    Parameters
    ----------
    app
        The app that answers all other requests.
    key
        The catalog's key.
    people
        Its people; None: nobody logs in.
    wrong
        Counts wrong keys, by address.
    """

    def __init__(self, app: App, *, key: str, people: PeopleFile | None, wrong: WrongKeys) -> None:
        self._app = app
        self._key = key
        self._people = people
        self._wrong = wrong
        self._tries: dict[str, int] = {}
        self._minute = time.monotonic()
        self._comparing = asyncio.Semaphore(1)  # each takes 32 MB
        self._waiting = 0
        self._provider = ProviderLogin(key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope.get("path", "")
        ways: dict[str, tuple[str, Callable[..., Any]]] = {
            PATH: ("POST", self._by_password),
            f"{PATH}/ways": ("GET", self._tell_ways),
            f"{PATH}/oidc": ("GET", self._to_provider),
            f"{PATH}/oidc/return": ("GET", self._from_provider),
        }
        if scope["type"] != "http" or path not in ways:
            await self._app(scope, receive, send)
            return
        method, answer = ways[path]
        try:
            if scope["method"] != method:
                raise Refusal(405, f"Here: {method}.", allow=method)
            await answer(scope, receive, send)
        except Refusal as refusal:
            await refuse(send, refusal.status, str(refusal), refusal.headers)

    def _there(self) -> People:
        if self._people is None:
            raise Refusal(404, _NO_PEOPLE)
        people = self._people.now()
        if people is None:
            raise Refusal(503, "Nobody can log in now; the server's log has the reason.")
        return people

    async def _tell_ways(self, scope: Scope, receive: Receive, send: Send) -> None:
        people = None if self._people is None else self._people.now()
        has = people is not None
        ways = {
            "people": self._people is not None,
            "password": has and any(each.password for each in people.people.values()),
            "oidc": has and people.oidc is not None,
        }
        await _answer(send, 200, {"content-type": "application/json"}, json.dumps(ways).encode())

    # -- with a password -----------------------------------------------------------------------

    async def _by_password(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_of_another_page(scope):
            raise Refusal(403, "A page of another origin may log nobody in.")
        people = self._there()
        given = await read_body(scope, receive)
        if not {"name", "password"} <= given.keys() <= {"name", "password", "program"}:
            raise Refusal(400, 'The body is {"name": …, "password": …}, with text.')
        name, password = given["name"], given["password"]
        if not isinstance(name, str) or not isinstance(password, str):
            raise Refusal(400, "name and password must be text.")
        self._refuse_early(scope)
        if wait := self._too_many(name):
            raise Refusal(429, "Too many wrong passwords.", **{"retry-after": str(wait)})
        person = people.people.get(name)
        kept = person.password if person is not None and person.password else NOBODYS
        counted, minute = self._counted(name), self._minute
        # before it is compared: others may be sent meanwhile
        self._tries[counted] = self._tries.get(counted, 0) + 1
        is_right = await self._compare(password, kept)
        if is_right and minute == self._minute:
            self._tries[counted] -= 1
        if not is_right:
            if wait := self._wrong.count(scope):
                raise Refusal(429, "Too many wrong keys.", **{"retry-after": str(wait)})
            raise Refusal(401, _WRONG)
        await self._let_in(people, name, scope, send, program=bool(given.get("program")))

    def _refuse_early(self, scope: Scope) -> None:
        """Refuse an address that has tried too often, before anything is compared or asked."""
        if wait := self._wrong.wait(scope):
            raise Refusal(429, "Too many wrong keys.", **{"retry-after": str(wait)})

    async def _compare(self, password: str, kept: str) -> bool:
        if self._waiting >= _WAITING:
            raise Refusal(429, "Many people log in now. Try again.", **{"retry-after": "5"})
        self._waiting += 1
        try:
            async with self._comparing:
                return await asyncio.to_thread(is_password, password, kept)
        finally:
            self._waiting -= 1

    def _counted(self, name: str) -> str:
        return name if name in self._tries or len(self._tries) < _NAMES else ""

    def _too_many(self, name: str) -> int:
        """Return how long to wait after too many wrong passwords for one name, s; otherwise 0."""
        passed = time.monotonic() - self._minute
        if passed >= _MINUTE:
            self._tries.clear()
            self._minute, passed = time.monotonic(), 0.0
        return int(_MINUTE - passed) + 1 if self._tries.get(self._counted(name), 0) >= TRIES else 0

    async def _let_in(
        self, people: People, name: str, scope: Scope, send: Send, *, program: bool
    ) -> None:
        ends = time.time() + 3600 * HOURS
        made = session_key(self._key, people, name, ends=ends)
        if program:
            body = json.dumps({"key": made, "ends": float(int(ends))}).encode()
            await _answer(send, 200, {"content-type": "application/json"}, body)
        else:
            await _answer(send, 204, {"set-cookie": cookie(scope, made, ends=ends)})

    # -- with an account of a provider ---------------------------------------------------------

    async def _to_provider(self, scope: Scope, receive: Receive, send: Send) -> None:
        settings = self._provider_of(self._there())
        try:
            address, state = await self._provider.begin(settings, self._folder)
        except LoginFailed as error:
            raise Refusal(502, str(error)) from None
        secure = "; Secure" if settings.address.startswith("https:") else ""
        header = f"{STATE}={state}; Path={PATH}/oidc; Max-Age=600; HttpOnly; SameSite=Lax{secure}"
        headers = {"location": address, "set-cookie": header, "content-length": "0"}
        await _answer(send, 302, headers)

    async def _from_provider(self, scope: Scope, receive: Receive, send: Send) -> None:
        people = self._there()
        settings = self._provider_of(people)
        self._refuse_early(scope)
        try:
            subject = await self._provider.finish(settings, self._folder, scope)
        except LoginFailed as error:
            if wait := self._wrong.count(scope):
                raise Refusal(429, "Too many wrong keys.", **{"retry-after": str(wait)}) from None
            raise Refusal(401, str(error)) from None
        name = people.by_oidc(subject)
        if name is None:
            raise Refusal(403, "This account is not one of the catalog's people.")
        ends = time.time() + 3600 * HOURS
        made = session_key(self._key, people, name, ends=ends)
        body = LEAD.format("/live").encode()
        headers = {
            "set-cookie": cookie(scope, made, ends=ends),
            "content-type": "text/html; charset=utf-8",
            **STRICT,
            "content-security-policy": page_policy(""),
            "content-length": str(len(body)),
        }
        await _answer(send, 200, headers, body)

    @property
    def _folder(self) -> Any:
        assert self._people is not None
        return self._people.path.parent

    @staticmethod
    def _provider_of(people: People) -> Any:
        if people.oidc is None:
            raise Refusal(404, "People do not log in here with accounts of a provider.")
        return people.oidc


async def _answer(send: Send, status: int, headers: dict[str, str], body: bytes = b"") -> None:
    await begin(send, status, {**headers, "cache-control": "no-store"})
    await send({"type": "http.response.body", "body": body})
