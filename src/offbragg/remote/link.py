"""Ask a catalog's server over HTTP; what goes wrong becomes an error that says what to do."""

from __future__ import annotations

import contextlib
import math
import time
import weakref
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx

from offbragg.certificates import trusted
from offbragg.errors import CatalogError, NoSuchEntry

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_BUSY = {429, 503}
_TRIES, _LONGEST_WAIT = 4, 10.0  # of a server that is busy; s
_AGAIN = 2  # times that a broken connection is made again, for one question


class CatalogAway(CatalogError):  # noqa: N818  what it is
    """The server cannot be reached, or broke off: the same question may be answered later."""


class Link:
    """The way to one server, with a key that is shown nowhere.

    Parameters
    ----------
    address
        As ``http://127.0.0.1:8000``; what stands after ``?`` is dropped.
    key
        Sent with each question, in a header.
    timeout
        Limit for the server to begin its answer, s.
    """

    def __init__(self, address: str, key: str, *, timeout: float = 30.0) -> None:
        try:
            parsed = httpx.URL(address.partition("?")[0].rstrip("/"))
        except httpx.InvalidURL as error:
            raise CatalogError(f"the catalog's address cannot be used: {error}") from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise CatalogError(
                f"{parsed} is not the address of a catalog\nIt begins with http:// or https://, "
                "as http://127.0.0.1:8000."
            )
        if parsed.userinfo:
            parsed = parsed.copy_with(userinfo=None)
        self.address = str(parsed)
        self.is_local = parsed.host in _LOOPBACK
        """No proxy is on the way to our own host."""
        self._key = key
        try:
            header = {"Authorization": f"Apikey {key}"}
            self._http = httpx.Client(
                base_url=self.address, headers=header, timeout=httpx.Timeout(timeout, connect=10.0),
                trust_env=not self.is_local, verify=trusted(self.address),
            )  # fmt: skip
        except UnicodeEncodeError:
            raise CatalogError("the key has a letter that no key has: copy it again") from None
        weakref.finalize(self, self._http.close)

    def __repr__(self) -> str:
        return f"<Link to {self.address}>"

    @property
    def key(self) -> str:
        """The key, for Tiled's client."""
        return self._key

    @property
    def authorization(self) -> dict[str, str]:
        """The header that the key is sent in."""
        return {"Authorization": f"Apikey {self._key}"}

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def json(self, path: str, /, **parameters: Any) -> Any:
        """Ask for JSON; parameters that are None are left out.

        Raises
        ------
        NoSuchEntry
            If the server has nothing there (404).
        CatalogAway
            If it cannot be reached.
        CatalogError
            If it refuses, with its reason.
        """
        answer = self.get(path, **parameters)
        try:
            return answer.json()
        except ValueError:
            raise CatalogError(
                f"{self.address}{path} answered something that is not JSON\nIs it a catalog of "
                "offbragg, of this version or a later one?"
            ) from None

    def get(
        self,
        path: str,
        /,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **parameters: Any,
    ) -> httpx.Response:
        """Ask for anything; errors as of `json`."""
        query = {name: value for name, value in parameters.items() if value is not None}
        more: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        broken = 0
        for left in reversed(range(_TRIES + _AGAIN)):
            try:
                answer = self._http.get(path, params=query, headers=headers, **more)
            except httpx.TransportError as error:
                broken += 1
                # one that was kept open may have been closed meanwhile: that is noticed at once
                if broken > _AGAIN or isinstance(
                    error, httpx.ConnectError | httpx.TimeoutException
                ):
                    raise self._away(path, error) from None
                continue
            wait = _seconds(answer.headers.get("retry-after"))
            if answer.status_code in _BUSY and left and wait <= _LONGEST_WAIT:
                time.sleep(wait)
                continue
            return self.checked(path, answer)
        raise AssertionError("unreachable")

    def post(self, path: str, content: Mapping[str, Any]) -> Any:
        """Send JSON and return the answer's; errors as of `json`.

        It is sent once: nobody knows whether what was broken off has arrived.
        """
        try:
            answer = self._http.post(path, json=content)
        except httpx.TransportError as error:
            raise self._away(path, error, "POST") from None
        return self.checked(path, answer).json()

    @contextlib.contextmanager
    def stream(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """Ask for what is too large for memory; errors as of `json`, also while it is read."""
        try:
            with self._http.stream("GET", path, headers=headers) as answer:
                if answer.is_error:
                    answer.read()
                    self.checked(path, answer)
                yield answer
        except httpx.TransportError as error:
            raise self._away(path, error) from None

    def checked(self, path: str, answer: httpx.Response) -> httpx.Response:
        """Return an answer, or raise what it says."""
        if answer.is_success:
            return answer
        method, detail = answer.request.method, _detail(answer)
        where = f"{method} {self.address}{path}: {answer.status_code}"
        error: CatalogError
        if answer.status_code in (401, 403):
            error = CatalogError(
                f"the catalog at {self.address} refused the key ({answer.status_code}): {detail}\n"
                "The key is what was given to offbragg.connect, or else that of OFFBRAGG_KEY."
            )
        elif answer.status_code == 404:
            error = NoSuchEntry(f"{detail}\n{where}")
        else:
            error = CatalogError(f"{detail}\n{where}")
        error.status = answer.status_code
        raise error

    def _away(self, path: str, error: Exception, method: str = "GET") -> CatalogAway:
        why = f"{type(error).__name__}: {error}".removesuffix(": ")
        return CatalogAway(
            f"the catalog at {self.address} is away: {method} {path} failed ({why})\n"
            "Is the tunnel open, and does offbragg serve run? Nothing is lost meanwhile."
        )


def segment(text: str) -> str:
    """Return one part of a path as an address has it."""
    return quote(text, safe="")


def _seconds(text: str | None) -> float:
    try:
        return max(float(text or 1.0), 0.1)
    except ValueError:
        return math.inf


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
