"""A provider of OpenID Connect on this machine: discovery, sign-in page, tokens, keys; and its faults, to order."""

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

CLIENT, SECRET = "medseg viewer", "s3cret: of the client"


class TinyProvider:
    """What it says can be bent: ``claims`` replace those of a token (None takes one away), ``key`` signs."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.listed = RSAKey.generate_key(2048, {"kid": "first", "use": "sig"})
        self.key: Any = self.listed
        self.algorithm = "RS256"
        self.claims: dict[str, Any] = {}
        self.discovery: dict[str, Any] = {}
        self.answer: dict[str, str | None] = {}
        """Replaces what the browser brings back."""
        self.asked: list[str] = []
        self._codes: dict[str, dict[str, str]] = {}

    def discovered(self) -> dict[str, Any]:
        """The discovery document."""
        return {
            "issuer": self.address,
            "authorization_endpoint": f"{self.address}/authorize",
            "token_endpoint": f"{self.address}/token",
            "jwks_uri": f"{self.address}/keys",
            "authorization_response_iss_parameter_supported": True,
            **self.discovery,
        }

    def came_back(self, asked: dict[str, str]) -> str:
        """Where the browser goes after its user has signed in."""
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        code = secrets.token_urlsafe(16)
        self._codes[code] = asked
        answer = {"code": code, "state": asked["state"], "iss": self.address, **self.answer}
        told = {name: value for name, value in answer.items() if value is not None}
        return asked["redirect_uri"] + "?" + urlencode(told)

    def token(self, form: dict[str, str], authorization: str) -> dict[str, Any] | None:
        """An ID token for a code; None where the client can't prove that the code is its own."""
        whole = f"{quote(CLIENT, safe='')}:{quote(SECRET, safe='')}".encode(), f"{CLIENT}:{SECRET}".encode()
        if authorization not in {"Basic " + base64.b64encode(one).decode() for one in whole}:
            return None
        asked = self._codes.pop(form.get("code", ""), None)
        hashed = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(hashed).rstrip(b"=").decode()
        if asked is None or challenge != asked["code_challenge"] or form["redirect_uri"] != asked["redirect_uri"]:
            return None
        now = int(time.time())
        claims = {
            "iss": self.address,
            "sub": "248289761001",
            "aud": CLIENT,
            "exp": now + 300,
            "iat": now,
            "nonce": asked["nonce"],
            "email": "anna@example.org",
            "email_verified": True,
            "groups": ["radiology", "staff"],
            **self.claims,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        header = {"alg": self.algorithm, "kid": self.key.kid}
        signed = jwt.encode(header, claims, self.key, algorithms=[self.algorithm])
        return {"access_token": "unused", "token_type": "Bearer", "expires_in": 300, "id_token": signed}

    def sign_with_the_public_key(self) -> None:
        """What a forger tries who knows only what everybody knows."""
        public = json.dumps(self.listed.as_dict(private=False)).encode().ljust(64)
        self.key, self.algorithm = OctKey.import_key(public, {"kid": "first"}), "HS256"


@contextmanager
def provided(clicks: bool = False) -> Iterator[TinyProvider]:
    """A provider that answers on a loopback port; with ``clicks`` its users see a page with a link to click."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, asked = urlsplit(self.path).path, dict(parse_qsl(urlsplit(self.path).query))
            provider.asked.append(path)
            if path == "/.well-known/openid-configuration":
                self._say(200, provider.discovered())
            elif path == "/keys":
                self._say(200, {"keys": [provider.listed.as_dict(private=False)]})
            elif path == "/authorize" and clicks:
                link = provider.came_back(asked).replace("&", "&amp;")
                self._send(200, "text/html", f'<a href="{link}">Continue as Anna</a>'.encode())
            elif path == "/authorize":
                self._send(302, "text/plain", b"", provider.came_back(asked))
            else:
                self._say(404, {})

        def do_POST(self) -> None:
            provider.asked.append(self.path)
            form = dict(parse_qsl(self.rfile.read(int(self.headers["content-length"])).decode()))
            found = provider.token(form, self.headers.get("authorization", ""))
            self._say(400, {"error": "invalid_grant"}) if found is None else self._say(200, found)

        def _say(self, status: int, found: dict[str, Any]) -> None:
            self._send(status, "application/json", json.dumps(found).encode())

        def _send(self, status: int, kind: str, body: bytes, location: str = "") -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            if location:
                self.send_header("location", location)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing on standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider = TinyProvider(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
