"""Nothing behind the gate is reached without a session, whatever is asked and however; and what leaves is marked."""

import asyncio
import time
from urllib.parse import quote

import pytest
import yaml

from medseg.access.gate import Gate, Keeper
from medseg.access.passwords import PasswordFile, PasswordHash, hash_password
from medseg.access.sessions import Sessions
from medseg.access.throttle import Throttle
from medseg.access.ways import Passwords
from medseg.chained_log import ChainedLog
from medseg.paths import shipped

TEXTS = yaml.safe_load((shipped("apps") / "viewer/texts/en.yaml").read_text())["sign_in"]
HERE = "127.0.0.1:8501"
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def hashed() -> PasswordHash:
    return hash_password(PASSWORD, cost=2**14, rounds=1)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Site:
    """A gate before an application that notes what reaches it."""

    def __init__(self, folder, users=None, idle=60, clock=None, **more):
        self.reached, self.clock = [], clock or Clock()
        self.audit = ChainedLog(folder / "audit.jsonl")
        keeper = None
        if users is not None:
            sessions = Sessions(idle, 1000, self.clock)
            keeper = Keeper(Passwords(lambda: PasswordFile(users=users), Throttle(self.clock), TEXTS), sessions, TEXTS)
        self.gate = Gate(self._app, keeper, self.audit, **more)

    async def _app(self, scope, receive, send):
        self.reached.append(scope)
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] != "websocket.disconnect":
                await send({"type": "websocket.send", "text": message["text"]})
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"public")]})
        await send({"type": "http.response.body", "body": b"patient"})

    def ask(
        self,
        path="/",
        method="GET",
        body=b"",
        cookie="",
        origin=None,
        host=HERE,
        server="127.0.0.1",
        query="",
        **headers,
    ):
        sent = []
        given = {"host": host, "cookie": cookie, **({"origin": origin} if origin else {}), **headers}
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "client": ("10.0.0.7", 1234),
            "server": (server, 8501),
        }

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message):
            sent.append(message)

        asyncio.run(self.gate(scope, receive, send))
        return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]

    def sign_in(self, user="anna", password=PASSWORD, **more):
        form = f"user={quote(user)}&password={quote(password)}".encode()
        return self.ask("/sign-in", "POST", form, origin=f"http://{HERE}", **more)

    def cookie(self):
        status, headers, _ = self.sign_in()
        assert status == 303
        return headers[b"set-cookie"].decode().split(";")[0]

    def talk(self, cookie="", origin=f"http://{HERE}", texts=(), stays=False):
        """A websocket on which these texts are said; what came back."""
        sent, coming = [], [{"type": "websocket.connect"}, *({"type": "websocket.receive", "text": t} for t in texts)]
        headers = {"host": HERE, "cookie": cookie, **({"origin": origin} if origin else {})}
        scope = {
            "type": "websocket",
            "path": "/_stcore/stream",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("10.0.0.7", 1234),
            "server": ("127.0.0.1", 8501),
        }

        async def receive():
            if coming:
                return coming.pop(0)
            if stays:
                await asyncio.sleep(3600)
            return {"type": "websocket.disconnect", "code": 1000}

        async def send(message):
            sent.append(message)

        asyncio.run(asyncio.wait_for(self.gate(scope, receive, send), 10))
        return sent


@pytest.fixture
def site(tmp_path, hashed):
    return Site(tmp_path, {"anna": hashed, "Čapek": hashed})


PATHS = ["/", "/records", "/media/1.jpg", "/volume/x/volume.nii.gz", "/niivue.js", "/_stcore/health", "/static/a.js"]
PATHS += ["/_stcore/upload_file/a/b", "/component/x/y", "/sign-in/", "//sign-in", "/SIGN-IN", "/session/../media/1.jpg"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("path", PATHS)
def test_without_a_session_nothing_is_reached(site, path, method):
    status, _, body = site.ask(path, method, origin=f"http://{HERE}", cookie="medseg_session=made-up")
    assert status == 401
    assert b"patient" not in body
    assert not site.reached


def test_a_browser_that_asks_for_a_page_is_sent_to_sign_in(site):
    status, headers, _ = site.ask("/", accept="text/html,*/*")
    assert (status, headers[b"location"]) == (303, b"/sign-in")
    status, _, body = site.ask("/sign-in")
    assert status == 200
    assert b'name="password"' in body


def test_with_the_right_password_everything_behind_is_reached_and_told_who_asks(site):
    cookie = site.cookie()
    status, _, body = site.ask("/media/1.jpg", cookie=cookie)
    assert (status, body) == (200, b"patient")
    assert (b"x-medseg-user", b"anna") in site.reached[-1]["headers"]


def test_nobody_can_say_himself_who_he_is(site):
    cookie = site.cookie()
    site.ask("/", cookie=cookie, **{"x-medseg-user": "chief"})
    assert [value for name, value in site.reached[-1]["headers"] if name == b"x-medseg-user"] == [b"anna"]


def test_a_name_with_other_letters_is_passed_on_in_a_form_that_headers_can_hold(site):
    _, headers, _ = site.sign_in("Čapek")
    site.ask("/", cookie=headers[b"set-cookie"].decode().split(";")[0])
    assert (b"x-medseg-user", b"%C4%8Capek") in site.reached[-1]["headers"]


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(site, tmp_path, hashed):
    _, headers, _ = site.sign_in()
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(headers[b"set-cookie"].decode().split("; "))
    _, headers, _ = Site(tmp_path, {"anna": hashed}, encrypted=True).sign_in()
    assert "Secure" in headers[b"set-cookie"].decode().split("; ")
    assert headers[b"strict-transport-security"]


def test_wrong_passwords_and_unknown_users_get_the_same_answer_and_then_have_to_wait(site):
    answers = {site.sign_in(user, "wrong password!")[::2] for user in ("anna", "nobody")}
    assert len(answers) == 1
    assert answers.pop()[0] == 401
    for _ in range(4):
        site.sign_in("anna", "wrong password!")
    status, headers, _ = site.sign_in("anna")
    assert status == 429
    assert int(headers[b"retry-after"]) > 0
    site.clock.now += 3600
    assert site.sign_in("anna")[0] == 303
    events = [line.split('"what": "')[1].split('"')[0] for line in site.audit.path.read_text().splitlines()]
    assert events.count("sign-in refused") == 5
    assert events[-2:] == ["sign-in held back", "signed in"]


def test_a_session_that_nobody_uses_ends(site):
    cookie = site.cookie()
    site.clock.now += 61
    assert site.ask("/", cookie=cookie)[0] == 401


def test_asking_whether_the_session_lives_does_not_keep_it_alive(site):
    cookie = site.cookie()
    site.clock.now += 40
    assert site.ask("/session", cookie=cookie)[0] == 200
    site.clock.now += 40
    assert site.ask("/session", cookie=cookie)[0] == 401


def test_who_comes_from_a_page_whose_session_has_ended_is_told_so(site):
    assert b"session has ended" in site.ask("/sign-in", query="ended=1")[2]
    assert b"session has ended" not in site.ask("/sign-in")[2]


def test_signing_out_ends_the_session_and_clears_the_cookie(site):
    cookie = site.cookie()
    assert b"anna" in site.ask("/sign-out", cookie=cookie)[2]
    assert site.ask("/", cookie=cookie)[0] == 200
    status, headers, _ = site.ask("/sign-out", "POST", cookie=cookie, origin=f"http://{HERE}")
    assert status == 303
    assert b"Max-Age=0" in headers[b"set-cookie"]
    assert site.ask("/", cookie=cookie)[0] == 401


@pytest.mark.parametrize("origin", [None, "http://evil.example", "null", "http://127.0.0.1:9999", "http://[broken"])
def test_what_changes_something_must_come_from_a_page_of_this_server(site, origin):
    cookie = site.cookie()
    before = len(site.reached)
    assert site.ask("/_stcore/upload_file/a/b", "PUT", cookie=cookie, origin=origin)[0] == 403
    assert site.ask("/sign-in", "POST", b"user=anna", origin=origin)[0] == 403
    assert len(site.reached) == before


def test_a_websocket_needs_a_session_and_a_page_of_this_server(site):
    closed = [{"type": "websocket.close", "code": 1008}]
    assert site.talk() == closed
    cookie = site.cookie()
    assert site.talk(cookie, origin="http://evil.example") == closed
    assert site.talk(cookie, origin=None) == closed
    assert [message["type"] for message in site.talk(cookie, texts=["a", "b"])] == [
        "websocket.accept",
        "websocket.send",
        "websocket.send",
    ]


def test_a_websocket_on_which_nothing_is_said_is_closed_when_its_session_ends(tmp_path, hashed):
    site = Site(tmp_path, {"anna": hashed}, idle=2, clock=time.monotonic)
    sent = site.talk(site.cookie(), texts=["a"], stays=True)
    assert sent[-1] == {"type": "websocket.close", "code": 1008}
    assert [message["type"] for message in sent[:-1]] == ["websocket.accept", "websocket.send"]


def test_answers_carry_the_headers_that_hold_a_browser_back(site):
    cookie = site.cookie()
    for path in ("/", "/volume/x/volume.nii.gz", "/media/1.jpg"):
        headers = site.ask(path, cookie=cookie)[1]
        assert headers[b"cache-control"] == b"no-store"
        assert b"frame-ancestors 'none'" in headers[b"content-security-policy"]
        assert headers[b"x-content-type-options"] == b"nosniff"
        assert headers[b"referrer-policy"] == b"same-origin"
        assert headers[b"cross-origin-resource-policy"] == b"same-origin"
    assert site.ask("/static/a.js", cookie=cookie)[1][b"cache-control"] == b"public"


def test_without_passwords_only_this_machine_under_its_own_name_is_served(tmp_path):
    open_site = Site(tmp_path, names=frozenset(("localhost", "127.0.0.1")))
    assert open_site.ask("/")[0] == 200
    assert (b"x-medseg-user", b"local") in open_site.reached[-1]["headers"]
    assert open_site.ask("/", server="10.1.2.3")[0] == 403
    assert open_site.ask("/", host="evil.example")[0] == 403
    assert open_site.ask("/", host="evil.example", origin="http://evil.example")[0] == 403
    assert open_site.ask("/", host="[")[0] == 403
    assert open_site.talk(origin="http://evil.example")[0]["type"] == "websocket.close"


def test_a_users_name_is_shown_as_text(tmp_path, hashed):
    site = Site(tmp_path, {"<script>alert(1)</script>": hashed})
    _, headers, _ = site.sign_in("<script>alert(1)</script>")
    body = site.ask("/sign-out", cookie=headers[b"set-cookie"].decode().split(";")[0])[2]
    assert b"<script>" not in body
    assert b"&lt;script&gt;" in body


def test_an_enormous_form_is_not_read_to_its_end(site):
    assert site.ask("/sign-in", "POST", b"user=" + b"a" * 10**6, origin=f"http://{HERE}")[0] == 401
