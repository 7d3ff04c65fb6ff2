"""Seconds until the first picture and until the next slice, in both views of the viewer, in Debian's chromium.

    python tests/benchmarks/viewer_browser.py [WORD ...]

Words are those of ``medseg view``, such as input=DIR; without any a phantom of 20x32x28 voxels is drawn. Chromium draws
in software here, so the interactive view is at its slowest; the two views are timed in turns in one browser. The first
turn prepares the case, where that was not done, and is told apart. The memory is the server's largest, mapped pages
included.
"""

import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
from playwright.sync_api import Page, sync_playwright

from tiny_browser import CHROMIUM, FLAGS, viewed, write_viewed_workspace

TURNS, STEPS = 3, 5
PATIENCE_MS = 400_000


def first_picture(page: Page, address: str, interactive: bool) -> float:
    """From asking for the page to the picture."""
    began = time.perf_counter()
    page.goto(address)
    if interactive:
        page.get_by_text("Draw it without a graphics card anyway").click()
        page.locator(".medseg[data-state=ready]").wait_for()
    else:
        page.locator("figure img").first.wait_for()
    return time.perf_counter() - began


def next_slice(page: Page, interactive: bool) -> float:
    """From the key to the next picture."""
    page.wait_for_timeout(1500)
    if interactive:
        page.locator(".medseg canvas").focus()
        read, key = page.locator(".medseg .status").inner_text, "PageUp"
    else:
        page.locator("figure").first.focus()
        read, key = (lambda: page.locator("figure img").first.get_attribute("alt")), "ArrowDown"
    before, began = read(), time.perf_counter()
    page.keyboard.press(key)
    while read() == before:
        time.sleep(0.005)
    return time.perf_counter() - began


def server_megabytes() -> float:
    """The largest memory that the server has had: the process below ours that runs the pages."""
    servers = [one for one in psutil.Process().children(recursive=True) if "viewer.py" in " ".join(one.cmdline())]
    return (
        max(int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{one.pid}/status").read_text())[0]) for one in servers) / 1e3
    )


def main(words: list[str]) -> None:
    """Time both views in turns and print the medians."""
    found: dict[tuple[bool, str], list[float]] = {}
    with viewed(*words) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for turn in range(TURNS + 1):
            for interactive in (False, True):
                page = browser.new_context(viewport={"width": 1500, "height": 1100}).new_page()
                page.set_default_timeout(PATIENCE_MS)
                seconds = first_picture(page, address, interactive)
                found.setdefault((interactive, "first picture" if turn else "very first picture"), []).append(seconds)
                if turn:
                    steps = [next_slice(page, interactive) for _ in range(STEPS)]
                    found.setdefault((interactive, "next slice"), []).extend(steps)
                page.context.close()
                print(f"turn {turn}, {'interactive' if interactive else 'slices'}: {seconds:.2f} s", flush=True)
        browser.close()
        memory = server_megabytes()
    for what in ("very first picture", "first picture", "next slice"):
        slices, interactive = (statistics.median(found[kind, what]) for kind in (False, True))
        print(f"{what}: slices {slices:.2f} s, interactive {interactive:.2f} s, ratio {interactive / slices:.2f}")
    print(f"memory of the server: {memory:.0f} MB")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1:])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main([f"workspace={write_viewed_workspace(Path(folder), cases=1)}"])
