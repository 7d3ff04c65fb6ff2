"""In a browser: a class activation map that was asked for on the page, and headers that try to be more than text."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg.cli import main

from tiny import write_untrained_model
from tiny_browser import needs_chromium, settled, viewed, write_viewed_workspace
from tiny_dicom import make_series, save, uid

pytestmark = [pytest.mark.deploy, needs_chromium]
HOSTILE = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>"


def opened(browser, address):
    page = browser.new_page(viewport={"width": 1500, "height": 1100})
    page.set_default_timeout(240_000)
    page.goto(address)
    page.get_by_text("Slices", exact=True).click()
    page.locator("figure img").nth(2).wait_for()
    settled(page)
    return page


def coloured(png: Path) -> int:
    """How many pixels of a screenshot have a colour."""
    pixels = np.asarray(Image.open(png).convert("RGB")).astype(int)
    return int((np.ptp(pixels, axis=2) > 40).sum())


def test_a_class_activation_map_is_asked_for_shown_and_judged(browser, tmp_path, screenshots):
    workspace = write_viewed_workspace(tmp_path, cases=1)
    with viewed(f"workspace={workspace}") as address:
        page = opened(browser, address)
        for word in ("ball", "box", "Crosshair"):
            page.locator("[data-testid=stCheckbox] label").filter(has_text=word).first.click()
            settled(page)
        picture = page.locator("figure img").first
        picture.screenshot(path=screenshots / "without_map.png")
        page.get_by_text("Why?").click()
        settled(page)
        page.wait_for_timeout(1000)  # it unfolds
        page.get_by_label("Method", exact=True).click()
        page.get_by_role("option", name="Activation map (Grad-CAM)", exact=True).click()
        settled(page)
        page.get_by_role("button", name="Explain").click()
        page.get_by_label("Explanation").first.wait_for()
        settled(page)
        page.get_by_label("Explanation").first.click()
        page.get_by_role("option", name="1. ball · Activation map (Grad-CAM) · deep layer").click()
        page.get_by_text("Shows what the score depends on, not correctness").wait_for()
        settled(page)
        page.screenshot(path=screenshots / "class_activation_map.png")
        picture.screenshot(path=screenshots / "with_map.png")
        page.close()
    assert coloured(screenshots / "with_map.png") > coloured(screenshots / "without_map.png") + 500


def test_a_script_in_a_dicom_header_is_shown_as_text_and_does_nothing(browser, tmp_path, screenshots):
    model = write_untrained_model(tmp_path / "M")
    voxels = np.random.default_rng(0).normal(1000, 100, (8, 16, 16)).astype(np.int16)
    names = {"PatientName": "<script>window.hacked=1</script>", "StudyDescription": HOSTILE[:60]}
    series = make_series(voxels, name="s", StudyInstanceUID=uid("study"), SeriesDescription=HOSTILE[:64], **names)
    save(series, tmp_path / "in")
    words = [f"model={model}", f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}", "mirror=false", "device=cpu"]
    assert main(["dicom", *words, 'formats=["nifti"]']) == 0
    with viewed(f"input={tmp_path / 'out'}") as address:
        page = opened(browser, address)
        page.get_by_text(HOSTILE[:40]).first.wait_for()
        page.screenshot(path=screenshots / "hostile_header.png")
        assert page.evaluate("window.hacked") is None
        assert page.locator("img[src=x]").count() == 0
        page.close()
