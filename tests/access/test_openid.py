"""Who signs in at a provider is let in; what the provider, the browser or somebody between them bends is refused."""

import asyncio
import json
import time
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import yaml

from medseg.access.gate import Gate
from medseg.access.openid import Flows
from medseg.access.provider import Flow
from medseg.access.server import ServerSettings
from medseg.chained_log import ChainedLog
from medseg.errors import SettingsError
from medseg.paths import shipped

from tiny_openid import CLIENT, SECRET, provided

TEXTS = yaml.safe_load((shipped("apps") / "viewer/texts/en.yaml").read_text())["sign_in"]
HERE = "127.0.0.1:8501"


@pytest.fixture
def provider():
    with provided() as provider:
        yield provider


class Browser:
    """One that keeps cookies and follows nothing by itself."""

    def __init__(self, gate):
        self._gate, self.cookies = gate, {}

    def ask(self, path, method="GET"):
        sent, parts = [], urlsplit(path)
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers = {"host": HERE, "cookie": cookies, "origin": f"http://{HERE}" if method == "POST" else ""}
        scope = {
            "type": "http",
            "method": method,
            "path": parts.path,
            "query_string": parts.query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("10.0.0.7", 1234),
            "server": ("127.0.0.1", 8501),
        }

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            sent.append(message)

        asyncio.run(self._gate(scope, receive, send))
        for name, value in sent[0]["headers"]:
            if name == b"set-cookie":
                key, _, rest = value.decode().partition("=")
                self.cookies[key] = rest.split(";")[0]
        return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"].decode()

    def go_to_provider(self):
        """The address at our server to which the provider sends the browser back."""
        status, headers, body = self.ask("/sign-in/openid")
        assert status == 303, body
        answer = requests.get(headers[b"location"].decode(), allow_redirects=False, timeout=10)
        return answer.headers["location"]

    def sign_in(self):
        return self.ask(self.go_to_provider())


class Site:
    """The gate as the server builds it from settings, before an application that says who asks."""

    def __init__(self, folder, provider, **more):
        (folder / "secret").write_text(SECRET + "\n")
        given = {"openid_users": ("anna@example.org",), "openid_secret": folder / "secret"} | more
        settings = ServerSettings(openid=provider.address, openid_client=CLIENT, **given)
        settings.require_safe()
        self.log = folder / "audit.jsonl"
        self.gate = Gate(self._app, settings.keeper(TEXTS), ChainedLog(self.log))

    async def _app(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": dict(scope["headers"])[b"x-medseg-user"]})

    def told(self):
        assert ChainedLog(self.log).verify().complaint is None
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def site(tmp_path, provider):
    return Site(tmp_path, provider)


def test_who_comes_back_from_the_provider_is_let_in_and_logged(site):
    browser = Browser(site.gate)
    assert browser.ask("/")[0] == 401
    assert f'href="http://{HERE}/sign-in/openid"' in browser.ask("/sign-in")[2]
    status, _, body = browser.sign_in()
    assert status == 200
    assert 'content="0;url=/"' in body
    assert browser.ask("/")[::2] == (200, "anna%40example.org")
    (entry,) = site.told()
    assert (entry["what"], entry["user"], entry["by"]) == ("signed in", "anna@example.org", "openid")


def test_the_browser_is_sent_away_with_a_challenge_a_state_and_a_nonce_that_are_new_each_time(site):
    seen = []
    for _ in range(2):
        _, headers, _ = Browser(site.gate).ask("/sign-in/openid")
        asked = parse_qs(urlsplit(headers[b"location"].decode()).query)
        assert asked["code_challenge_method"] == ["S256"]
        assert asked["redirect_uri"] == [f"http://{HERE}/sign-in/callback"]
        assert {"HttpOnly", "SameSite=Lax", "Path=/sign-in"} <= set(headers[b"set-cookie"].decode().split("; "))
        seen += [asked[name][0] for name in ("state", "nonce", "code_challenge")]
    assert len(set(seen)) == 6


def test_each_sign_in_is_a_new_session_and_ends_the_old_one(site):
    browser = Browser(site.gate)
    browser.sign_in()
    old = browser.cookies["medseg_session"]
    browser.sign_in()
    assert browser.cookies["medseg_session"] != old
    browser.cookies["medseg_session"] = old
    assert browser.ask("/")[0] == 401


def test_signing_out_ends_the_session(site):
    browser = Browser(site.gate)
    browser.sign_in()
    kept = dict(browser.cookies)
    assert browser.ask("/sign-out", "POST")[0] == 303
    browser.cookies = kept
    assert browser.ask("/")[0] == 401
    assert site.told()[-1]["what"] == "signed out"


now = time.time
BENT = {
    "nonce": ("nonce", lambda p: p.claims.update(nonce="another")),
    "no nonce": ("nonce", lambda p: p.claims.update(nonce=None)),
    "audience": ("aud", lambda p: p.claims.update(aud="another client")),
    "two audiences": ("another client", lambda p: p.claims.update(aud=[CLIENT, "another"])),
    "authorised party": ("another client", lambda p: p.claims.update(azp="another")),
    "issuer": ("iss", lambda p: p.claims.update(iss="http://127.0.0.1:1")),
    "expired": ("expired", lambda p: p.claims.update(exp=int(now()) - 60)),
    "no expiry": ("exp", lambda p: p.claims.update(exp=None)),
    "from the future": ("future", lambda p: p.claims.update(iat=int(now()) + 600)),
    "signature": ("signature", lambda p: setattr(p, "key", type(p.listed).generate_key(2048, {"kid": "first"}))),
    "unlisted key": ("does not list", lambda p: setattr(p, "key", type(p.listed).generate_key(2048, {"kid": "other"}))),
    "public key as a secret": ("ID token", lambda p: p.sign_with_the_public_key()),
    "unverified email": ("verified", lambda p: p.claims.update(email_verified=False)),
    "email nobody vouches for": ("verified", lambda p: p.claims.update(email_verified=None)),
    "name with a line break": ("usable", lambda p: p.claims.update(email="a\nb")),
    "state": ("state", lambda p: p.answer.update(state="another")),
    "answer of another issuer": ("issuer", lambda p: p.answer.update(iss="https://evil.example")),
    "answer of nobody": ("without issuer", lambda p: p.answer.update(iss=None)),
    "the user said no": ("access_denied", lambda p: p.answer.update(error="access_denied", code=None)),
    "code of nobody": ("invalid_grant", lambda p: p.answer.update(code="made up")),
}


@pytest.mark.parametrize("what", BENT)
def test_what_is_bent_is_refused_with_a_page_and_logged_with_its_reason(site, provider, what):
    reason, bend = BENT[what]
    bend(provider)
    browser = Browser(site.gate)
    status, _, body = browser.sign_in()
    assert status == 403
    assert "could not be trusted" in body
    assert "medseg_session" not in browser.cookies
    assert browser.ask("/")[0] == 401
    entry = site.told()[-1]
    assert entry["what"] == "sign-in refused"
    assert reason in entry["reason"]


def test_who_is_not_on_the_list_is_named_on_the_page_as_text_and_in_the_log(site, provider):
    provider.claims["email"] = "<b>ben</b>@example.org"
    status, _, body = Browser(site.gate).sign_in()
    assert status == 403
    assert "&lt;b&gt;ben&lt;/b&gt;@example.org is known" in body
    assert site.told()[-1]["user"] == "<b>ben</b>@example.org"


@pytest.mark.parametrize(
    ("allowed", "status"),
    [
        ({"openid_users": (), "openid_groups": ("radiology",)}, 200),
        ({"openid_users": (), "openid_groups": ("surgery",)}, 403),
        ({"openid_users": ("*",)}, 200),
        ({"openid_users": ("248289761001",), "openid_claim": "sub"}, 200),
        ({"openid_users": (), "openid_groups": ("radiology",), "openid_group_claim": "roles"}, 403),
        ({"openid_secret": None}, 403),
    ],
)
def test_users_and_groups_are_let_in_by_settings(tmp_path, provider, allowed, status):
    assert Browser(Site(tmp_path, provider, **allowed).gate).sign_in()[0] == status


def test_an_answer_is_good_for_one_use_and_for_the_browser_that_asked(site):
    browser, other = Browser(site.gate), Browser(site.gate)
    back = browser.go_to_provider()
    assert "another window" in other.ask(back)[2]
    kept = dict(browser.cookies)
    assert browser.ask(back)[0] == 200
    browser.cookies = kept
    assert "another window" in browser.ask(back)[2]


def test_an_attempt_is_forgotten_after_ten_minutes():
    clock = iter([0.0, 0.0, 599.0, 601.0])
    flows = Flows(lambda: next(clock))
    first, second = flows.keep(Flow("a", "b", "c")), flows.keep(Flow("d", "e", "f"))
    assert flows.take(first) == Flow("a", "b", "c")
    assert flows.take(second) is None
    assert flows.take("made up") is None


def test_a_new_key_of_the_provider_is_fetched_and_an_old_one_is_not_asked_for_again(site, provider):
    for _ in range(2):
        assert Browser(site.gate).sign_in()[0] == 200
    assert provider.asked.count("/keys") == 1
    assert provider.asked.count("/.well-known/openid-configuration") == 1
    provider.listed = provider.key = type(provider.listed).generate_key(2048, {"kid": "second"})
    assert Browser(site.gate).sign_in()[0] == 200
    assert provider.asked.count("/keys") == 2


@pytest.mark.parametrize(
    ("bent", "reason", "status"),
    [
        ({"issuer": "https://evil.example"}, "another issuer", 403),
        ({"token_endpoint": "http://login.example.org/token"}, "token_endpoint", 403),
        ({"authorization_endpoint": "http://login.example.org/"}, "authorization_endpoint", 403),
        ({"jwks_uri": None}, "jwks_uri", 403),
        ({"jwks_uri": "http://127.0.0.1:1/"}, "ConnectionError", 503),
    ],
)
def test_a_provider_that_can_not_be_trusted_or_reached_lets_nobody_in(site, provider, bent, reason, status):
    provider.discovery.update(bent)
    browser = Browser(site.gate)
    told, headers, _ = browser.ask("/sign-in/openid")
    if told == 303:
        answer = requests.get(headers[b"location"].decode(), allow_redirects=False, timeout=10)
        told, _, _ = browser.ask(answer.headers["location"])
    assert told == status
    assert reason in site.told()[-1]["reason"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"openid": "http://login.example.org"}, "must begin with https://"),
        ({"openid_client": None}, "openid_client"),
        ({"openid_users": ()}, "who may look"),
        ({"openid_secret": "/nowhere"}, "There is no file /nowhere"),
        ({"address": "http://viewer.example.org"}, "must begin with https://"),
        ({"host": "10.0.0.1"}, "needs address="),
        ({"passwords": __file__}, "Give one"),
    ],
)
def test_settings_that_would_let_others_in_or_nobody_are_refused(given, said):
    whole = {"openid": "https://login.example.org", "openid_client": "m", "openid_users": ("*",)} | given
    with pytest.raises(SettingsError, match=said):
        ServerSettings(**whole).require_safe()


def test_behind_a_proxy_with_https_cookies_are_kept_to_https(tmp_path, provider):
    settings = ServerSettings(address="https://viewer.example.org/", openid=provider.address)
    assert settings.own_address == "https://viewer.example.org"
    assert settings.is_encrypted
