"""Pages that need nothing but themselves."""

import re

import pytest

from medseg.explanation.document import Explanation
from medseg.reports.case import CaseFacts, Explained, write_case_page
from medseg.reports.page import Html, banner, bullets, link, picture, section, table, tag, write_page

HOSTILE = "<script src='http://evil.example/x.js'></script>\"'&"


def test_a_text_from_a_header_stays_text_wherever_it_stands(tmp_path):
    body = [
        tag("h1", HOSTILE),
        tag("p", "x", title=HOSTILE),
        banner(HOSTILE, [HOSTILE]),
        section(HOSTILE, table((HOSTILE,), [(HOSTILE,)]), bullets([HOSTILE])),
        link(f"cases/{HOSTILE}.html", HOSTILE),
        HOSTILE,
    ]
    write_page(tmp_path / "x.html", HOSTILE, body)
    page = (tmp_path / "x.html").read_text()
    assert "<script" not in page
    assert page.count("&lt;script") == 11
    assert "'evil" not in page
    assert not re.findall(r"\b(?:src|href)=\"(?!data:|cases/)", page)


def test_a_page_may_ask_nobody_for_anything(tmp_path):
    write_page(tmp_path / "x.html", "title", [tag("p", "text")])
    page = (tmp_path / "x.html").read_text()
    assert "default-src 'none'" in page
    assert "http:" not in page
    assert "https:" not in page
    assert "'self'" not in page
    write_page(tmp_path / "x.html", "title", [], linked_pictures=True)
    assert "img-src data: 'self'" in (tmp_path / "x.html").read_text()


def test_what_is_empty_is_left_out_and_numbers_stand_on_the_right(tmp_path):
    assert section("Title", Html(), bullets([]), table(("a",), []), picture(tmp_path / "no.png", "nothing")) == ""
    found = table(("name", "Dice"), [("liver", "0.9"), ("spleen", "-")])
    assert '<td class="n">0.9</td>' in found
    assert "<td>liver</td>" in found


@pytest.mark.parametrize("failed", ["depends_on_weights", "is_faithful", "is_decided"])
def test_a_case_page_warns_of_a_map_that_failed_its_check(failed, tmp_path):
    passed = {"depends_on_weights": True, "is_faithful": True, "is_decided": True}
    sanity = {**passed, failed: False, "verdict": "Do not believe this map: reasons."}
    found = Explanation(
        case="a", label="liver", method="hires_cam", configuration="2d", fold=0, region_voxels=5, score=1.0,
        largest=1.0, is_blank=False, share_in_region=0.5, share_by_chance=0.1, sanity=sanity,
    )  # fmt: skip
    facts = CaseFacts("a", {}, ("it has no orientation",), explanations=(Explained(found, tmp_path / "no.png"),))
    write_case_page(tmp_path / "a.html", facts, [])
    page = (tmp_path / "a.html").read_text()
    assert "it has no orientation" in page
    assert "liver, hires_cam: Do not believe this map" in page
