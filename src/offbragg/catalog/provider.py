"""Log in with an account of an OpenID Connect provider: the authorization code flow, with PKCE.

Tiled's own authenticator finds the provider's addresses and keys, and checks the token that it
issues. What a browser brings back must belong to what it was sent away with, in the same browser.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import secrets
import stat
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import httpx
import jwt
from starlette.requests import cookie_parser
from tiled.authenticators import OIDCAuthenticator

from offbragg.catalog.authentication import Scope
from offbragg.catalog.people import Provider
from offbragg.printable import printable

COOKIE = "offbragg_login"
RETURN = "/login/oidc/return"
_MINUTES = 10.0  # that somebody may take to log in at the provider
_PATIENCE = 10.0  # s, for an answer of the provider
_LARGEST = 4096  # bytes of the file with the client's secret


class LoginFailed(Exception):  # noqa: N818  an answer, not an error
    """Why somebody is not let in."""


class ProviderLogin:
    """Sends people to a provider, and receives them.

    Parameters
    ----------
    key
        The catalog's key: what a browser keeps meanwhile is signed with it.
    """

    def __init__(self, key: str) -> None:
        self._key = key.encode()
        self._known: tuple[Provider, str, OIDCAuthenticator] | None = None

    async def begin(self, settings: Provider, folder: Path) -> tuple[str, str]:
        """Return the address to send a browser to, and what it keeps meanwhile.

        Parameters
        ----------
        settings
            Which provider it is.
        folder
            What the name of the file with the secret is relative to.
        """
        provider = await self._authenticator(settings, folder)
        kept = {name: secrets.token_urlsafe(32) for name in ("state", "nonce", "verifier")}
        kept["until"] = f"{time.time() + 60 * _MINUTES:.0f}"
        digest = hashlib.sha256(kept["verifier"].encode()).digest()
        asked = {
            "response_type": "code", "client_id": settings.client_id,
            "scope": "openid email profile",
            "redirect_uri": settings.address + RETURN, "state": kept["state"],
            "nonce": kept["nonce"], "code_challenge": _coded(digest),
            "code_challenge_method": "S256",
        }  # fmt: skip
        content = _coded(json.dumps(kept).encode())
        address = str(provider.authorization_endpoint)
        joined = "&" if "?" in address else "?"
        return f"{address}{joined}{urlencode(asked)}", f"{content}.{self._signature(content)}"

    async def finish(self, settings: Provider, folder: Path, scope: Scope) -> str:
        """Return whom the provider names.

        Raises
        ------
        LoginFailed
            If it names nobody, or what it says is not for this browser.
        """
        given = parse_qs(scope["query_string"].decode("latin-1"))
        kept = self._kept(scope)
        state, code = (given.get(name, [""])[0] for name in ("state", "code"))
        if kept is None or not hmac.compare_digest(state.encode(), kept["state"].encode()):
            raise LoginFailed("This login was not begun in this browser, or took too long.")
        if not code:
            why = printable(given.get("error", ["no code"])[0][:100])
            raise LoginFailed(f"The provider did not log you in: {why}.")
        provider = await self._authenticator(settings, folder)
        try:
            claims = await asyncio.to_thread(self._exchange, provider, settings, code, kept)
        except (httpx.HTTPError, jwt.PyJWTError, ValueError, KeyError, TypeError) as error:
            what = printable(str(error).partition("\n")[0][:200])
            raise LoginFailed(f"What the provider says is not accepted: {what}") from error
        if claims.get("nonce") != kept["nonce"]:
            raise LoginFailed("What the provider says is of another login.")
        if settings.claim == "email" and claims.get("email_verified") is not True:
            raise LoginFailed("The provider has not verified this e-mail address.")
        subject = claims.get(settings.claim)
        if not isinstance(subject, str) or not subject:
            raise LoginFailed(f"The provider does not say {settings.claim}.")
        return subject

    def _exchange(
        self, provider: OIDCAuthenticator, settings: Provider, code: str, kept: dict[str, str]
    ) -> dict[str, Any]:
        """Exchange the code for a token, and return what that says."""
        secret = provider._client_secret.get_secret_value()  # pyright: ignore[reportPrivateUsage]
        answer = httpx.post(
            provider.token_endpoint,
            data={"grant_type": "authorization_code", "code": code,
                  "redirect_uri": settings.address + RETURN, "code_verifier": kept["verifier"]},
            auth=(settings.client_id, secret), timeout=_PATIENCE,
        )  # fmt: skip
        token = answer.raise_for_status().json()
        return provider.decode_token(token["id_token"], token.get("access_token"))

    async def _authenticator(self, settings: Provider, folder: Path) -> OIDCAuthenticator:
        """Return what knows the provider; it is asked for its addresses once."""
        try:
            secret = _read_secret(folder / settings.client_secret_file)
            known = self._known
            if known is not None and known[:2] == (settings, secret):
                return known[2]
            made = OIDCAuthenticator(
                settings.client_id, settings.client_id, secret, settings.discovery
            )
            answer = await asyncio.to_thread(httpx.get, settings.discovery, timeout=_PATIENCE)
            vars(made)["_config_from_oidc_url"] = answer.raise_for_status().json()
            offered = answer.json()["id_token_signing_alg_values_supported"]
            signing = [each for each in offered if each not in _WEAK]
            if not signing:
                raise ValueError(f"it signs with {', '.join(offered)} only")
            vars(made)["id_token_signing_alg_values_supported"] = signing
        except (OSError, httpx.HTTPError, ValueError, TypeError, KeyError) as error:
            what = printable(str(error).partition("\n")[0][:200])
            raise LoginFailed(f"The provider of accounts cannot be used now: {what}") from error
        self._known = settings, secret, made
        return made

    def _kept(self, scope: Scope) -> dict[str, str] | None:
        """Return what the browser was sent away with; None if it is not ours, or too old."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        content, _, signature = (
            cookie_parser(headers.get(b"cookie", "")).get(COOKIE, "").partition(".")
        )
        if not hmac.compare_digest(signature.encode(), self._signature(content).encode()):
            return None
        kept = json.loads(base64.urlsafe_b64decode(content + "=" * (-len(content) % 4)))
        return kept if time.time() < float(kept["until"]) else None

    def _signature(self, content: str) -> str:
        text = f"sent to a provider {content}".encode()
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()


_WEAK = ("none", "HS256", "HS384", "HS512")
"""Algorithms with which others than the provider could sign."""


def _read_secret(path: Path) -> str:
    with path.open("rb") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            raise ValueError(f"others can read {path.name}")
        secret = file.read(_LARGEST).decode().strip()
    if not secret:
        raise ValueError(f"{path.name} is empty")
    return secret


def _coded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
