"""The pages of ``medseg report`` in a browser: they open, ask nobody for anything, and lead to one another."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from medseg.cli import main
from medseg.paths import Workspace

from tiny import write_tiny_workspace

pytestmark = pytest.mark.deploy
CHROMIUM = "/usr/bin/chromium"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    if not Path(CHROMIUM).exists():
        pytest.skip(f"there is no {CHROMIUM}")
    folder = tmp_path_factory.mktemp("browser")
    workspace = Workspace(write_tiny_workspace(folder))
    assert main(["train", "fold=0", f"workspace={workspace.folder}", "iterations=6", "device=cpu"]) == 0
    assert main(["report", f"workspace={workspace.folder}"]) == 0
    # Alone, as it would be sent to somebody.
    return shutil.move(workspace.folder / "report", folder / "sent")


@contextmanager
def opened(page_file):
    """The page in a browser, and every address it asked for and everything it complained about."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 1400})
        asked, complaints = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(page_file.as_uri())
        yield page, asked, complaints
        browser.close()


def test_the_page_of_all_opens_and_leads_to_a_case_and_back(report):
    with opened(report / "index.html") as (page, asked, complaints):
        assert page.locator("h1").inner_text() == "tiny: what was trained, and how good it is"
        page.evaluate("[...document.images].forEach(i => { i.loading = 'eager' })")
        page.wait_for_function("[...document.images].every(i => i.complete)")
        broken = page.evaluate("[...document.images].filter(i => i.naturalWidth == 0).length")
        assert broken == 0
        assert page.locator("img").count() >= 2
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow == 0
        page.locator("section#all-cases a").first.click()
        page.wait_for_url("**/cases/*.html")
        assert page.locator("figure img").count() == 1
        page.get_by_text("all cases").click()
        page.wait_for_url("**/index.html")
        assert {address.split(":")[0] for address in asked} <= {"file", "data"}
        assert all(address.startswith((report.as_uri(), "data:")) for address in asked)
        assert complaints == []
