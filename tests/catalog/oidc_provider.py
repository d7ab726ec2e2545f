"""An OpenID Connect provider on loopback: authlib's, which issues real, signed tokens."""

from __future__ import annotations

import threading
import time
from typing import Any

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin, grants
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import UserInfo
from authlib.oidc.core.grants import OpenIDCode
from flask import Flask, jsonify, request
from joserfc.jwk import KeySet, RSAKey
from werkzeug.serving import make_server

CLIENT, SECRET = "offbragg", "a secret of the client"


class Client(ClientMixin):
    def __init__(self, redirect: str) -> None:
        self.redirect = redirect

    def get_client_id(self) -> str:
        return CLIENT

    def get_default_redirect_uri(self) -> str:
        return self.redirect

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri == self.redirect

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == SECRET

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == "client_secret_basic"

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code"


class Code:
    def __init__(self, asked: Any, subject: str) -> None:
        payload = asked.payload
        self.redirect_uri, self.scope = payload.redirect_uri, payload.scope
        self.nonce = payload.data.get("nonce")
        self.code_challenge = payload.data.get("code_challenge")
        self.code_challenge_method = payload.data.get("code_challenge_method")
        self.subject = subject

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str | None:
        return self.nonce

    def get_auth_time(self) -> None:
        return None

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None


class Provider:
    """The provider; whoever asks is logged in at once as `subject`.

    Attributes
    ----------
    subject
        Whom it names.
    claims
        More that it says of them, instead of what is true if the names are the same.
    key
        What it signs with; it publishes `published`.
    """

    def __init__(self, redirect: str) -> None:
        self.subject, self.claims = "ada-at-the-provider", dict[str, Any]()
        self.published = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"}, private=True)
        self.key = self.published
        self.codes: dict[str, Code] = {}
        app = Flask("provider")
        self._server = make_server("127.0.0.1", 0, app, threaded=True)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        server = AuthorizationServer(app, query_client=lambda _: Client(redirect),
                                     save_token=lambda token, asked: None)  # fmt: skip
        server.register_grant(_grant(self), [_tokens(self)(), CodeChallenge(required=True)])

        @app.get("/.well-known/openid-configuration")
        def discovery() -> Any:
            return jsonify(
                issuer=self.issuer, authorization_endpoint=f"{self.issuer}/authorize",
                token_endpoint=f"{self.issuer}/token", jwks_uri=f"{self.issuer}/keys",
                id_token_signing_alg_values_supported=["RS256", "HS256"],
            )  # fmt: skip

        @app.get("/keys")
        def keys() -> Any:
            return jsonify(KeySet([self.published]).as_dict(private=False))

        @app.get("/authorize")
        def authorize() -> Any:
            grant = server.get_consent_grant(end_user=self.subject)
            return server.create_authorization_response(grant=grant, grant_user=self.subject)

        @app.post("/token")
        def token() -> Any:
            return server.create_token_response(request)

        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()


def _grant(provider: Provider) -> Any:
    class Grant(grants.AuthorizationCodeGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic",)

        def save_authorization_code(self, code: str, request: Any) -> None:
            provider.codes[code] = Code(request, provider.subject)

        def query_authorization_code(self, code: str, client: Any) -> Code | None:
            return provider.codes.get(code)

        def delete_authorization_code(self, authorization_code: Code) -> None:
            provider.codes = {
                k: v for k, v in provider.codes.items() if v is not authorization_code
            }

        def authenticate_user(self, authorization_code: Code) -> str:
            return authorization_code.subject

    return Grant


def _tokens(provider: Provider) -> Any:
    class Tokens(OpenIDCode):
        def exists_nonce(self, nonce: str, request: Any) -> bool:
            return False

        def resolve_client_private_key(self, client: Any) -> RSAKey:
            return provider.key

        def get_client_algorithm(self, client: Any) -> str:
            return "RS256"

        def get_encode_header(self, client: Any) -> dict[str, str]:
            return {"alg": "RS256", "kid": "one"}

        def get_client_claims(self, client: Any) -> dict[str, Any]:
            now = int(time.time())
            return {"iss": provider.issuer, "aud": [CLIENT], "iat": now, "exp": now + 600}

        def generate_user_info(self, user: str, scope: str) -> UserInfo:
            return UserInfo(sub=user, **provider.claims)

    return Tokens
