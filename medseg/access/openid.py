"""The way to sign in by OpenID Connect: the browser goes to the hospital's provider and comes back with a code.

Knows nothing of tokens (``provider.py``). An attempt is tied to the browser that began it by a cookie of its own, is
good for one use and ten minutes, and lives in this server's memory. Whom the provider knows may still not look: who may
is said by ``openid_users`` and ``openid_groups``.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medseg.access.asgi import Receive, Request, cookie
from medseg.access.page import link_form
from medseg.access.provider import Client, Flow, Provider, ProviderError, is_private
from medseg.access.ways import SIGN_IN, Attempt
from medseg.errors import SettingsError
from medseg.settings import Settings

BEGIN, BACK = f"{SIGN_IN}/openid", f"{SIGN_IN}/callback"
ANYBODY = "*"
_COOKIE, _LIFETIME_S, _MOST = "medseg_sign_in", 600.0, 10_000


class OpenIdSettings(Settings):
    """Signing in at an OpenID Connect provider instead of with a password."""

    openid: str | None = None
    """Issuer of the OpenID Connect provider at which users sign in, such as https://login.example.org/realms/hospital."""
    openid_client: str | None = None
    """Name (client_id) under which the provider knows this viewer."""
    openid_secret: Path | None = None
    """File that holds the client's secret alone; without it the client is a public one."""
    openid_users: tuple[str, ...] = ()
    """Who may look, by openid_claim; ["*"] is everybody whom the provider lets in."""
    openid_groups: tuple[str, ...] = ()
    """Groups whose members may look, by openid_group_claim."""
    openid_claim: str = "email"
    """What users are called by; of an email the provider must say that it is verified."""
    openid_group_claim: str = "groups"
    """Where an ID token lists a user's groups."""
    openid_scope: str = "openid email profile"
    """What the provider is asked for."""
    openid_ca: Path | None = None
    """Certificates (PEM) of the hospital's own authority that has signed the provider's."""
    address: str | None = None
    """Under which browsers open the viewer, such as https://viewer.example.org; by default host and port."""

    def require_usable_openid(self) -> None:
        """Raise SettingsError where users could not sign in, or anybody could."""
        if self.openid is None:
            return
        if not is_private(self.openid):
            raise SettingsError(f"openid={self.openid} must begin with https:// (http:// only on this machine).")
        if not self.openid_client:
            raise SettingsError("openid= needs openid_client=NAME, under which the provider knows this viewer.")
        if not self.openid_users and not self.openid_groups:
            raise SettingsError(
                'openid= needs to know who may look: openid_users=["anna@example.org"], openid_groups=["radiology"], '
                'or openid_users=["*"] for everybody whom the provider lets in.'
            )
        if self.address is not None and not is_private(self.address):
            raise SettingsError(f"address={self.address} must begin with https:// (http:// only on this machine).")
        for file in (self.openid_secret, self.openid_ca):
            if file is not None and not file.is_file():
                raise SettingsError(f"There is no file {file}.")

    def secret(self) -> str | None:
        """The client's secret. Raises SettingsError for an empty file."""
        if self.openid_secret is None:
            return None
        try:
            found = self.openid_secret.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"openid_secret={self.openid_secret} could not be read: {error}.") from None
        if not found:
            raise SettingsError(f"openid_secret={self.openid_secret} is empty. Write the client's secret into it.")
        return found

    def may_look(self, user: str, claims: Mapping[str, Any]) -> bool:
        """Whether this user of the provider is one of ours."""
        groups = claims.get(self.openid_group_claim, [])
        groups = groups if isinstance(groups, list) else [groups]
        return (
            ANYBODY in self.openid_users
            or user in self.openid_users
            or any(isinstance(group, str) and group in self.openid_groups for group in groups)
        )

    def user_in(self, claims: Mapping[str, Any]) -> str:
        """What the user is called. Raises ProviderError where the token does not say, or only claims to know."""
        found = claims.get(self.openid_claim)
        if not isinstance(found, str) or not found.isprintable() or not 0 < len(found) <= 128:
            raise ProviderError(f"ID token: no usable {self.openid_claim}")
        if self.openid_claim == "email" and claims.get("email_verified") is not True:
            raise ProviderError("ID token: email is not verified")
        return found


class OpenId:
    """The way; ``own`` is the viewer's address, without a slash at its end."""

    paths = frozenset((SIGN_IN, BEGIN, BACK))

    def __init__(self, settings: OpenIdSettings, own: str, texts: Mapping[str, str]) -> None:
        self._settings, self._own, self._texts = settings, own, texts
        self._encrypted = own.startswith("https:")
        client = Client(
            issuer=settings.openid or "",
            name=settings.openid_client or "",
            secret=settings.secret(),
            redirect=own + BACK,
            scope=settings.openid_scope,
            authority=settings.openid_ca,
        )
        self._provider = Provider(client)
        self._flows = Flows()
        self._asking = asyncio.Semaphore(8)

    def form(self, texts: Mapping[str, str]) -> str:
        """A link, which leads over the viewer's one address so that the cookie is there on the way back."""
        return link_form(texts["openid"], self._own + BEGIN)

    async def attempt(self, request: Request, receive: Receive) -> Attempt | None:  # noqa: ARG002 (the other way's)
        """Send the browser away, or take it back."""
        if request.changes or request.path == SIGN_IN:
            return None
        return await (self._begin() if request.path == BEGIN else self._back(request))

    async def _begin(self) -> Attempt:
        flow = Flow(*(secrets.token_urlsafe(48) for _ in range(3)))
        try:
            async with self._asking:
                address = await asyncio.to_thread(self._provider.address, flow)
        except ProviderError as error:
            return self._refused("", error)
        kept = cookie(_COOKIE, self._flows.keep(flow), SIGN_IN, "Lax", self._encrypted, int(_LIFETIME_S))
        return Attempt(location=address, headers=[kept])

    async def _back(self, request: Request) -> Attempt:
        flow = self._flows.take(request.cookie(_COOKIE))
        if flow is None:
            return self._refused("", ProviderError("no attempt of this browser is known"), "openid_stale")
        user = ""
        try:
            async with self._asking:
                claims = await asyncio.to_thread(self._provider.claims, request.query, flow)
            user = self._settings.user_in(claims)
        except ProviderError as error:
            return self._refused(user, error)
        if not self._settings.may_look(user, claims):
            return self._refused(user, ProviderError("not among the users who may look"), "openid_unknown")
        return Attempt(user, True, event="signed in", details={"by": "openid"}, headers=[self._cleared()])

    def _refused(self, user: str, error: ProviderError, text: str = "openid_unsound") -> Attempt:
        text, status = ("openid_away", 503) if error.is_away else (text, 403)
        message = self._texts[text].replace("{user}", user)
        details = {"by": "openid", "reason": str(error)}
        return Attempt(user, False, "", status, message, "sign-in refused", details, [self._cleared()])

    def _cleared(self) -> tuple[bytes, bytes]:
        return cookie(_COOKIE, "", SIGN_IN, "Lax", self._encrypted, 0)


class Flows:
    """Attempts that browsers have begun, each for one use; the oldest go when there are too many."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: OrderedDict[bytes, tuple[float, Flow]] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, flow: Flow) -> str:
        """Keep it; returns what the browser's cookie holds."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._begun[_key(token)] = (self._clock(), flow)
            if len(self._begun) > _MOST:
                self._begun.popitem(last=False)
        return token

    def take(self, token: str) -> Flow | None:
        """What this browser has begun, once; None where it has not, or too long ago."""
        with self._lock:
            began, flow = self._begun.pop(_key(token), (0.0, None))
        return flow if flow is not None and self._clock() - began < _LIFETIME_S else None


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
