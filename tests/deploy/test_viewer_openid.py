"""A reader signs in at a provider of OpenID Connect, in a browser."""

import json

import pytest

from medseg.chained_log import ChainedLog

from tiny_browser import CHROMIUM, FLAGS, needs_chromium, viewed, write_viewed_workspace
from tiny_openid import CLIENT, SECRET, provided

pytestmark = pytest.mark.deploy


@needs_chromium
def test_a_reader_comes_back_from_the_provider_to_the_worklist_and_signs_out(tmp_path):
    from playwright.sync_api import sync_playwright

    workspace = write_viewed_workspace(tmp_path, cases=1)
    (tmp_path / "secret").write_text(SECRET)
    words = [f"openid_client={CLIENT}", f"openid_secret={tmp_path / 'secret'}", 'openid_groups=["radiology"]']
    with (
        provided(clicks=True) as provider,
        viewed(f"workspace={workspace}", f"openid={provider.address}", *words) as address,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(address)
        page.get_by_role("link", name="Sign in with your hospital account").click()
        page.get_by_role("link", name="Continue as Anna").click()
        page.get_by_text("Worklist").wait_for()
        page.locator("figure img").first.wait_for()
        page.goto(address + "/sign-out")
        page.get_by_text("Signed in as anna@example.org").wait_for()
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("link", name="Sign in with your hospital account").wait_for()
        provider.claims["groups"] = ["surgery"]
        page.get_by_role("link", name="Sign in with your hospital account").click()
        page.get_by_role("link", name="Continue as Anna").click()
        page.get_by_text("anna@example.org is known to the sign-in service but may not look here").wait_for()
        browser.close()
    log = workspace / "review/audit.jsonl"
    assert ChainedLog(log).verify().complaint is None
    told = [(entry["what"], entry["user"]) for entry in map(json.loads, log.read_text().splitlines())]
    known = [one for one in told if one[0] in ("signed in", "signed out", "sign-in refused")]
    assert known == [(event, "anna@example.org") for event in ("signed in", "signed out", "sign-in refused")]
