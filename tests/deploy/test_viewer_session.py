"""What a reader meets whose session has ended, and what the log says of what was opened."""

import json

import pytest

from medseg.access.passwords import set_password

from tiny_browser import CHROMIUM, FLAGS, needs_chromium, settled, viewed, write_viewed_workspace

pytestmark = [pytest.mark.deploy, needs_chromium]
PASSWORD = "correct horse battery"


def test_a_page_whose_session_has_ended_leaves_for_the_sign_in_page_by_itself(tmp_path, screenshots):
    from playwright.sync_api import sync_playwright

    workspace = write_viewed_workspace(tmp_path, cases=2)
    set_password(tmp_path / "passwords.json", "anna", PASSWORD)
    words = [f"workspace={workspace}", f"passwords={tmp_path / 'passwords.json'}", "session=40s"]
    with viewed(*words) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        page.set_default_timeout(240_000)
        page.goto(address)
        page.get_by_label("User").fill("anna")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.locator("figure img").first.wait_for()
        settled(page)
        page.get_by_role("button", name="case_1").click()
        page.get_by_role("heading", name="medseg").wait_for()  # of the page to sign in: nobody has clicked anything
        page.get_by_text("Your session has ended").wait_for()
        page.screenshot(path=screenshots / "session_ended.png")
        browser.close()
    log = (workspace / "review/audit.jsonl").read_text().splitlines()
    opened = [entry for entry in map(json.loads, log) if entry["what"] == "case opened"]
    assert [(entry["user"], entry["case"]) for entry in opened] == [("anna", "case_0"), ("anna", "case_1")]
