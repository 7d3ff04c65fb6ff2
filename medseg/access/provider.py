"""A provider of OpenID Connect as a client sees it: its discovery document, its keys, a code for the claims of a user.

Knows nothing of browsers or sessions. OAuth's requests are authlib's and signatures joserfc's; the rules are those of
OpenID Connect Core 1.0 section 3.1.3.7, RFC 7636 (PKCE) and RFC 9207 (issuer). Only asymmetric signatures count, so
that nobody can sign with what is no secret. Keys are read again when the provider signs with one we do not know.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from medseg.access.asgi import is_loopback
from medseg.errors import MedsegError

_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_KEPT_S, _PATIENCE_S, _LEEWAY_S = 3600.0, 10.0, 30
_DISCOVERY = "/.well-known/openid-configuration"


class ProviderError(MedsegError):
    """The provider could not be asked, or what it said can't be trusted; the text is for the audit log."""

    def __init__(self, reason: str, is_away: bool = False) -> None:
        super().__init__(reason)
        self.is_away = is_away
        """Whether it could not be asked at all."""


@dataclass(frozen=True)
class Client:
    """Who we are to the provider."""

    issuer: str
    name: str
    secret: str | None
    """None for a public client, which PKCE alone protects."""
    redirect: str
    """Where browsers come back to."""
    scope: str = "openid email profile"
    authority: Path | None = None
    """Certificates (PEM) of who has signed the provider's own."""


@dataclass(frozen=True)
class Flow:
    """What one attempt of one browser is known by."""

    state: str
    nonce: str
    verifier: str


class Provider:
    """One provider; safe to use from several threads. Its methods ask over the network, so call them from a thread."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._verify = str(client.authority) if client.authority else True
        self._documents: dict[str, tuple[float, Any]] = {}
        self._lock = threading.Lock()

    def address(self, flow: Flow) -> str:
        """Where the browser is sent to sign in. Raises ProviderError."""
        endpoint = self._endpoint("authorization_endpoint")
        with self._session() as session:
            url, _ = session.create_authorization_url(
                endpoint, state=flow.state, code_verifier=flow.verifier, nonce=flow.nonce
            )
        return str(url)

    def claims(self, answer: Mapping[str, str], flow: Flow) -> dict[str, Any]:
        """What the provider says of the user whose browser came back with ``answer``. Raises ProviderError."""
        self._require_own(answer, flow)
        token = self._exchange(answer.get("code", ""), flow)
        try:
            return self._checked(token, flow, fresh=False)
        except _UnknownKeyError:
            pass
        try:
            return self._checked(token, flow, fresh=True)
        except _UnknownKeyError:
            raise ProviderError("signed with a key that the provider does not list") from None

    def _require_own(self, answer: Mapping[str, str], flow: Flow) -> None:
        if not hmac.compare_digest(answer.get("state", "").encode(), flow.state.encode()):
            raise ProviderError("wrong state")
        named = answer.get("iss")
        if named is None and self._discovered().get("authorization_response_iss_parameter_supported") is True:
            raise ProviderError("answer without issuer")
        if named not in (None, self._client.issuer):
            raise ProviderError("answer of another issuer")
        if "error" in answer:
            raise ProviderError(f"provider said {answer['error'][:64]!r}")

    def _exchange(self, code: str, flow: Flow) -> str:
        from authlib.integrations.base_client import OAuthError
        from requests import RequestException

        endpoint = self._endpoint("token_endpoint")
        try:
            with self._session() as session:
                found = session.fetch_token(
                    endpoint,
                    code=code,
                    code_verifier=flow.verifier,
                    timeout=_PATIENCE_S,
                    allow_redirects=False,
                    verify=self._verify,
                )
        except OAuthError as error:
            raise ProviderError(f"code refused: {str(error.error)[:64]!r}") from None
        except RequestException as error:
            raise ProviderError(f"token endpoint: {type(error).__name__}", is_away=True) from None
        except ValueError:
            raise ProviderError("token endpoint: no JSON", is_away=True) from None
        token = found.get("id_token") if isinstance(found, dict) else None
        if not isinstance(token, str):
            raise ProviderError("no ID token")
        return token

    def _checked(self, token: str, flow: Flow, fresh: bool) -> dict[str, Any]:
        from joserfc import jwt
        from joserfc.errors import InvalidKeyIdError, JoseError
        from joserfc.jwk import KeySet

        listed = self._document(self._endpoint("jwks_uri"), fresh)
        rules = jwt.JWTClaimsRegistry(
            leeway=_LEEWAY_S,
            iss={"essential": True, "value": self._client.issuer},
            aud={"essential": True, "value": self._client.name},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
            nonce={"essential": True, "value": flow.nonce},
        )
        try:
            claims = jwt.decode(token, KeySet.import_key_set(cast(Any, listed)), algorithms=_ALGORITHMS).claims
            rules.validate(claims)
        except InvalidKeyIdError:
            raise _UnknownKeyError from None
        except JoseError as error:
            raise ProviderError(f"ID token: {error.error} {error.description}"[:120].strip()) from None
        except (ValueError, TypeError, KeyError) as error:
            raise ProviderError(f"ID token: {type(error).__name__}") from None
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", self._client.name) != self._client.name or (several and "azp" not in claims):
            raise ProviderError("ID token: for another client")
        return dict(claims)

    def _session(self) -> Any:
        from authlib.integrations.requests_client import OAuth2Session

        methods = self._discovered().get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        method = "client_secret_basic" if "client_secret_basic" in methods else "client_secret_post"
        return OAuth2Session(
            self._client.name,
            self._client.secret,
            token_endpoint_auth_method=method if self._client.secret else "none",
            scope=self._client.scope,
            redirect_uri=self._client.redirect,
            code_challenge_method="S256",
        )

    def _discovered(self) -> dict[str, Any]:
        found = self._document(self._client.issuer.rstrip("/") + _DISCOVERY)
        if found.get("issuer") != self._client.issuer:
            raise ProviderError("the discovery document names another issuer")
        return found

    def _endpoint(self, name: str) -> str:
        address = self._discovered().get(name)
        if not isinstance(address, str) or not is_private(address):
            raise ProviderError(f"the discovery document names no {name} under https")
        return address

    def _document(self, address: str, fresh: bool = False) -> dict[str, Any]:
        """A JSON object of the provider, kept for an hour."""
        import requests

        with self._lock:
            read, found = self._documents.get(address, (0.0, None))
            if found is not None and not fresh and time.monotonic() - read < _KEPT_S:
                return found
        try:
            answer = requests.get(address, timeout=_PATIENCE_S, allow_redirects=False, verify=self._verify)
            found = answer.json() if answer.status_code == 200 else None
        except (requests.RequestException, OSError, ValueError) as error:
            raise ProviderError(f"{address}: {type(error).__name__}", is_away=True) from None
        if not isinstance(found, dict):
            raise ProviderError(f"{address}: no JSON object (HTTP {answer.status_code})", is_away=True)
        with self._lock:
            self._documents[address] = (time.monotonic(), found)
        return found


class _UnknownKeyError(Exception):
    """The token names a key that is not among those we have read."""


def is_private(address: str) -> bool:
    """Whether nobody on the way can read along: https, or this machine alone."""
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and (
            parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        )
    except ValueError:
        return False
