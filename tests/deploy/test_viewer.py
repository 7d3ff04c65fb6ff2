"""The viewer in a browser: both views, what a reader does in them, and nothing without a session."""

import json
import sqlite3
import urllib.error
import urllib.request

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from medseg.access.passwords import set_password
from medseg.chained_log import ChainedLog
from medseg.errors import MedsegError
from medseg.images.formats import read_labels
from medseg.paths import shipped
from medseg.review.niivue import FILE, fetch

from tiny_browser import column_of, grey, needs_chromium, settled, viewed, write_viewed_workspace

pytestmark = pytest.mark.deploy
PATIENCE_MS = 120_000
PASSWORD = "correct horse battery"
ASSETS = shipped("apps") / "viewer/assets"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return write_viewed_workspace(tmp_path_factory.mktemp("viewed"))


@pytest.fixture(scope="module")
def server(workspace):
    with viewed(f"workspace={workspace}", f"predictions=[{workspace.parent / 'P'}]") as address:
        yield address


@pytest.fixture
def page(browser, server):
    """A page that asks nobody but our server, and in which nothing fails."""
    context = browser.new_context(viewport={"width": 1500, "height": 1100})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    outside, wrong = [], []
    own = (server, server.replace("http", "ws"), "blob:", "data:")
    page.on("request", lambda request: None if request.url.startswith(own) else outside.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.goto(server)
    yield page
    context.close()
    assert not outside
    assert not wrong


@pytest.fixture(scope="module")
def niivue():
    if not (ASSETS / FILE).is_file():
        try:
            fetch(ASSETS)
        except MedsegError as error:
            pytest.skip(str(error))


def switch(page, label):
    """Turn a switch or box of the page over, and wait for the page."""
    page.locator("[data-testid=stCheckbox] label").filter(has_text=label).first.click()
    settled(page)


def choose(page, label, option):
    """Choose from a list of the page."""
    page.get_by_label(label).first.click()
    page.get_by_role("option", name=option).click()
    settled(page)


def interactive(page):
    """Turn to the interactive view, which asks first because chromium draws without a graphics card here."""
    page.get_by_text("Draw it without a graphics card anyway").click()
    page.locator(".medseg[data-state=ready]").wait_for()
    settled(page)
    return page.locator(".medseg canvas")


def status(page):
    """The line below the canvas."""
    return page.locator(".medseg .status").inner_text()


def in_the_picture(seen):
    """The part of a screenshot that the image fills."""
    rows = (seen > 0.2).mean(axis=1) > 0.5
    columns = np.nonzero((seen[rows] > 0.2).mean(axis=0) > 0.5)[0]
    return seen[rows, columns.min() : columns.max() + 1]


@needs_chromium
def test_without_a_graphics_card_the_slices_are_shown_and_the_page_says_so(page, niivue, screenshots):
    page.get_by_text("This computer draws without a graphics card").wait_for()
    page.locator("figure img").nth(2).wait_for()
    page.screenshot(path=screenshots / "fallback.png")


@needs_chromium
def test_in_the_slice_view_the_patients_right_is_on_the_left(page, screenshots):
    page.get_by_text("Slices", exact=True).click()
    page.locator("figure img").first.wait_for()
    for structure in ("ball", "box", "Crosshair"):
        switch(page, structure)
    page.screenshot(path=screenshots / "slices.png")
    seen = in_the_picture(grey(page.locator("figure img").first.screenshot()))
    assert column_of(seen > 0.85) < 0.4
    assert column_of(seen < 0.35) > 0.6


@needs_chromium
def test_what_is_chosen_in_a_list_is_never_cut_off(page):
    page.get_by_text("Slices", exact=True).click()
    page.locator("figure img").nth(2).wait_for()
    for status in ("not reviewed yet", "needs edit", "all"):
        choose(page, "Status", status)
        assert page.get_by_label("Status").first.input_value() == status
        assert not page.evaluate(CUT_OFF)


CUT_OFF = """() => [...document.querySelectorAll("[data-testid=stSelectbox] input")]
  .filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.value)"""


@needs_chromium
def test_in_the_interactive_view_the_patients_right_is_on_the_left(page, niivue, screenshots):
    canvas = interactive(page)
    for structure in ("ball", "box", "Crosshair"):
        switch(page, structure)
    page.get_by_role("button", name="Axial", exact=True).click()
    page.wait_for_timeout(500)
    seen = in_the_picture(grey(canvas.screenshot(path=screenshots / "interactive_axial.png")))
    assert column_of(seen > 0.85) < 0.4
    assert column_of(seen < 0.35) > 0.6


@needs_chromium
def test_a_reader_scrolls_toggles_fades_and_asks_for_doubt_in_the_interactive_view(page, niivue, screenshots):
    volumes = []
    page.on("request", lambda request: volumes.append(request.url) if "/volume/" in request.url else None)
    canvas = interactive(page)
    assert len(volumes) == 2
    page.screenshot(path=screenshots / "interactive.png")
    box = canvas.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.2)
    page.wait_for_timeout(500)
    before = status(page)
    page.mouse.wheel(0, 100)
    page.wait_for_timeout(500)
    assert status(page) != before
    settled(page)
    with_labels = canvas.screenshot()
    switch(page, "ball")
    without_one = canvas.screenshot()
    assert without_one != with_labels
    page.locator("[data-testid=stSlider]").filter(has_text="Opacity").get_by_role("slider").press("End")
    settled(page)
    page.wait_for_timeout(500)
    assert canvas.screenshot() != without_one
    assert len(volumes) == 2
    choose(page, "Map", "Entropy")
    page.locator(".medseg[data-state=ready]").wait_for()
    page.wait_for_timeout(1000)
    assert len(volumes) == 3
    assert "entropy" in status(page)
    page.screenshot(path=screenshots / "interactive_entropy.png")
    page.get_by_role("button", name="3D", exact=True).click()
    page.wait_for_timeout(1500)
    page.screenshot(path=screenshots / "interactive_3d.png")


@needs_chromium
def test_where_the_crosshair_was_set_in_one_view_it_stands_in_the_other(page, niivue):
    canvas = interactive(page)
    box = canvas.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.2)
    page.wait_for_timeout(1000)
    settled(page)
    x, y, z = (float(part) for part in status(page).split(" mm")[0].split(" / "))
    page.get_by_text("Slices", exact=True).click()
    page.get_by_text(f"({x:.1f}, {y:.1f}, {z:.1f}) mm").wait_for()


@needs_chromium
def test_an_accepted_case_is_found_in_the_database_and_its_comment_is_shown_as_text(page, workspace, screenshots):
    page.get_by_text("Slices", exact=True).click()
    page.get_by_text("Accept", exact=True).click()
    hostile = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>"
    page.get_by_label("Comment").fill(hostile)
    page.get_by_label("Your name").fill("Dr Test")
    page.get_by_role("button", name="Save review").click()
    page.get_by_text("· Dr Test ·").wait_for()
    assert page.get_by_text(hostile).last.is_visible()
    page.screenshot(path=screenshots / "reviewed.png")
    with sqlite3.connect(workspace / "review/reviews.sqlite") as database:
        rows = database.execute("SELECT case_name, status, reviewer, comment FROM reviews").fetchall()
    assert rows == [("case_0", "accepted", "Dr Test", hostile)]
    assert page.evaluate("window.hacked") is None


ROUTES = ["/", "/records", "/guide", "/sign-in/", "/volume/x/volume.nii.gz", "/niivue.js", "/media/x.jpg"]
ROUTES += ["/_stcore/health", "/_stcore/host-config", "/_stcore/metrics", "/_stcore/script-health-check"]
ROUTES += ["/_stcore/upload_file/a/b", "/_stcore/bidi-components/x/y.js", "/component/x/y.js", "/static/index.html"]
ROUTES += ["/auth/login", "/oauth2callback", "/volume/..%2f..%2fetc%2fpasswd/volume.nii.gz", "/static/../../etc/passwd"]


@pytest.fixture(scope="module")
def locked(workspace):
    """The same under a password."""
    passwords = workspace / "passwords.json"
    set_password(passwords, "anna", PASSWORD)
    with viewed(f"workspace={workspace}", f"passwords={passwords}") as address:
        yield address


def asked(address, path, method="GET", **headers):
    """Status and body of an answer; what is no success is an answer too."""
    request = urllib.request.Request(address + path, method=method, headers=headers)
    opener = urllib.request.build_opener(_Stay)
    try:
        with opener.open(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.headers, answer.read()


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


@needs_chromium
def test_what_is_drawn_with_the_pen_becomes_a_correction_where_it_was_drawn(page, niivue, workspace, screenshots):
    page.get_by_label("Your name").fill("Dr Pen")
    page.get_by_label("Your name").press("Enter")
    canvas = interactive(page)
    page.get_by_role("button", name="Axial", exact=True).click()
    page.get_by_role("button", name="Draw", exact=True).click()
    page.locator(".pen select").select_option("2")
    page.wait_for_timeout(1000)
    box = canvas.bounding_box()
    middle, height = box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.2
    page.mouse.move(middle - 60, height)
    page.mouse.down()
    for step in range(1, 7):
        page.mouse.move(middle - 60 + 20 * step, height)
    page.mouse.up()
    page.wait_for_timeout(500)
    page.screenshot(path=screenshots / "pen.png")
    page.get_by_role("button", name="Keep as correction").click()
    page.get_by_text("Drawn by hand").first.wait_for(state="attached")
    before, after = (read_labels(path) for path in (workspace.parent / "P/case_0.nii.gz", _only_correction(workspace)))
    changed = np.argwhere(before.array != after.array)
    assert 3 <= len(changed) <= 60
    assert set(after.array[tuple(changed.T)]) == {2}
    # The row of voxels lies in one slice, in front, and to both sides of the middle.
    mm = (after.affine @ np.c_[changed, np.ones(len(changed))].T)[:3]
    assert np.ptp(mm[2]) == 0
    assert mm[1].mean() > 5
    assert mm[0].min() < 0 < mm[0].max()


def _only_correction(workspace):
    (path,) = (workspace / "review/corrections/case_0").glob("*.nii.gz")
    return path


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_refuses_without_a_session(locked, path):
    assert asked(locked, path)[0] == 401
    assert asked(locked, path, "POST", origin=locked)[0] == 401
    code, headers, _ = asked(locked, path, accept="text/html")
    assert (code, headers["location"]) == (303, "/sign-in")


def test_the_websocket_refuses_without_a_session_and_opens_with_one(locked, workspace):
    address = locked.replace("http", "ws") + "/_stcore/stream"
    with pytest.raises(InvalidStatus, match="403"):
        connect(address, origin=locked, subprotocols=["streamlit"])
    body = f"user=anna&password={PASSWORD.replace(' ', '+')}".encode()
    request = urllib.request.Request(locked + "/sign-in", body, {"origin": locked})
    with pytest.raises(urllib.error.HTTPError) as told:
        urllib.request.build_opener(_Stay).open(request, timeout=60)
    cookie = told.value.headers["set-cookie"].split(";")[0]
    told.value.close()
    assert asked(locked, "/_stcore/health", cookie=cookie)[0] == 200
    assert asked(locked, "/volume/..%2f..%2fpasswords.json/volume.nii.gz", cookie=cookie)[0] in (400, 404)
    assert asked(locked, "/volume/x/volume.nii.gz", cookie=cookie)[0] == 404
    with connect(address, origin=locked, subprotocols=["streamlit"], additional_headers={"cookie": cookie}):
        pass
    with pytest.raises(InvalidStatus, match="403"):
        connect(address, origin="http://evil.example", additional_headers={"cookie": cookie})
    assert ChainedLog(workspace / "review/audit.jsonl").verify().complaint is None


@needs_chromium
def test_a_reader_signs_in_and_out_and_the_log_says_what_was_looked_at(browser, locked, workspace, screenshots):
    context = browser.new_context(viewport={"width": 1500, "height": 1100})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(locked)
    page.get_by_label("User").fill("anna")
    page.get_by_label("Password").fill("wrong, all wrong")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("do not match").wait_for()
    page.screenshot(path=screenshots / "sign_in.png")
    page.get_by_label("User").fill("anna")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("Worklist").wait_for()
    page.locator("figure img").first.wait_for()
    page.get_by_role("link", name="Sign out").wait_for()
    page.goto(locked + "/sign-out")
    page.get_by_role("button", name="Sign out").click()
    page.goto(locked)
    page.get_by_label("Password").wait_for()
    context.close()
    log = workspace / "review/audit.jsonl"
    assert ChainedLog(log).verify().complaint is None
    told = [(entry["what"], entry["user"]) for entry in map(json.loads, log.read_text().splitlines())]
    assert ("sign-in refused", "anna") in told
    assert told[-1] == ("signed out", "anna")
