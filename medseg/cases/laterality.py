"""Which structures are named by their side of the patient, so that mirroring across that axis would swap them.

Knows names only. Sides are recognised as words of their own (left, Right, l, R, lt, rh, sinister, dexter) in any
spelling: ``left_kidney``, ``kidney_right``, ``Left Kidney``, ``LeftKidney``, ``kidney_l``; and glued (``lungleft``)
where both sides exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_SIDES = {
    **dict.fromkeys(("left", "l", "lt", "lh", "lhs", "sinister", "sinistra", "sin"), "left"),
    **dict.fromkeys(("right", "r", "rt", "rh", "rhs", "dexter", "dextra", "dex"), "right"),
}


def paired_left_right(names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """(left name, right name) of every structure that occurs with both sides, in the order of ``names``."""
    names = list(names)
    sided = {key: name for name in names if (key := _by_word(name)) is not None}
    rest = [name for name in names if name not in sided.values()]
    sided |= {key: name for name in rest if (key := _glued(name)) is not None}
    lefts = {stem: name for (side, stem), name in sided.items() if side == "left"}
    pairs = [(name, sided[("right", stem)]) for stem, name in lefts.items() if ("right", stem) in sided]
    return tuple(sorted(pairs, key=lambda pair: min(names.index(pair[0]), names.index(pair[1]))))


def side_of(name: str) -> tuple[str | None, str]:
    """(left, right or None; the other words in lower case with single spaces) of a structure's name."""
    found = None if _is_level(name) else _by_word(name)
    return found or (None, " ".join(word.lower() for word in _words(name)))


def named_by_side(names: Iterable[str]) -> tuple[str, ...]:
    """Structures with a side in their name, whether or not the other side is there too; L1 alone is a vertebra."""
    names = list(names)
    paired = {name for pair in paired_left_right(names) for name in pair}
    return tuple(name for name in names if name in paired or (_by_word(name) is not None and not _is_level(name)))


def _is_level(name: str) -> bool:
    """Whether the only sign of a side is an L or R right before a number."""
    return (
        re.search(r"left|right", name, re.IGNORECASE) is None and re.search(r"(?<![A-Za-z])[LlRr]\d", name) is not None
    )


def _by_word(name: str) -> tuple[str, str] | None:
    """(side, the other words), or None unless exactly one word is a side."""
    words = [word.lower() for word in _words(name)]
    found = [index for index, word in enumerate(words) if word in _SIDES]
    if len(found) != 1 or len(words) < 2:
        full = [index for index in found if words[index] in {"left", "right"}]
        if len(full) != 1 or len(words) < 2:
            return None
        found = full
    # the place of the side word counts not: "left kidney" and "kidney right" are a pair
    return _SIDES[words[found[0]]], " ".join(word for index, word in enumerate(words) if index != found[0])


def _words(name: str) -> list[str]:
    return re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+", name)


def _glued(name: str) -> tuple[str, str] | None:
    for side in ("left", "right"):
        rest = re.sub(rf"^{side}|{side}$", "", name.lower())
        if rest != name.lower():
            return side, "glued " + rest.strip(" _-")
    return None
