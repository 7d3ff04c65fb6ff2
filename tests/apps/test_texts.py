"""Every text that the pages ask for is in the catalogue, and every text of the catalogue is asked for."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOM = Path(__file__).parents[2] / "apps" / "viewer"
_spec = importlib.util.spec_from_file_location("viewer_texts", ROOM / "texts.py")
assert _spec is not None and _spec.loader is not None
texts = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(texts)


ELSEWHERE = {
    "canvas": [ROOM / "assets/interactive.js", ROOM / "assets/interactive.html"],
    "sign_in": [ROOM.parents[1] / "medseg/access" / f"{name}.py" for name in ("page", "gate", "ways", "openid")],
}
"""Sections that are used as a whole, and where."""


def _branches(node: ast.expr) -> list[ast.expr]:
    return [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]


def asked() -> tuple[set[str], set[str]]:
    """Keys that stand in the code, and the beginnings of those that are put together."""
    whole, begun = set(), set()
    for path in (*ROOM.glob("*.py"), ROOM.parent / "viewer.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "text":
                for part in _branches(node.args[0]):
                    if isinstance(part, ast.JoinedStr) and isinstance(part.values[0], ast.Constant):
                        begun.add(str(part.values[0].value))
                    elif isinstance(part, ast.Constant):
                        whole.add(str(part.value))
    return whole, begun | {f"{name}." for name in ELSEWHERE}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_is_not_python_uses_every_text_of_its_section(name: str) -> None:
    used = {word for path in ELSEWHERE[name] for word in re.findall(r"[a-z_]+", path.read_text())}
    assert texts.section(name)
    assert set(texts.section(name)) <= used


def test_nothing_is_missing_and_nothing_is_left_over() -> None:
    whole, begun = asked()
    known = set(texts.catalogue())
    assert whole <= known
    assert not [key for key in known - whole if not key.startswith(tuple(begun))]


@pytest.mark.parametrize(
    "name", ["<b>x</b>", "![a](http://evil/p.png)", "[a](javascript:x)", "$x$ :red[a] `c` *d* _e_"]
)
def test_words_of_others_lose_their_meaning_as_markdown(name: str) -> None:
    escaped = texts.plain(name)
    assert re.sub(r"\\(.)", r"\1", escaped) == name
    assert not re.search(r"(?<!\\)[<>\[\]!`*_$:]", escaped)


def test_no_page_ever_shows_html() -> None:
    for path in ROOM.rglob("*.py"):
        assert not re.search(r"unsafe_allow_html|st\.html|components\.v1", path.read_text()), path
    for path in {*ROOM.rglob("*.js")} - {ROOM / "assets/niivue.js"}:
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", path.read_text()), path
