"""Every word on the pages comes from ``texts/en.yaml``; a translation is one more file, chosen by its name.

What others wrote (headers, comments, label names, paths) never goes through here unescaped: ``plain`` makes Markdown
show it as it is, and nothing on any page is HTML.
"""

import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import yaml

LANGUAGE = "en"
_FOLDER = Path(__file__).resolve().parent / "texts"


@cache
def catalogue(language: str = LANGUAGE) -> dict[str, str]:
    """Keys such as ``worklist.search`` and their texts."""
    sections = yaml.safe_load((_FOLDER / f"{language}.yaml").read_text(encoding="utf-8"))
    return {f"{name}.{key}": str(words) for name, section in sections.items() for key, words in section.items()}


def section(name: str) -> dict[str, str]:
    """All texts of a section by their keys, for what is not Python: the browser's part, the page to sign in."""
    return {key.removeprefix(f"{name}."): words for key, words in catalogue().items() if key.startswith(f"{name}.")}


def text(key: str, **values: object) -> str:
    """The text of a key, with ``{name}`` replaced by values. Raises KeyError for a key that the catalogue lacks."""
    found = catalogue()[key]
    return found.format(**values) if values else found


def moment(time: str) -> str:
    """An ISO time of the log as people read it, to the minute."""
    return datetime.fromisoformat(time).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def plain(words: object) -> str:
    """Somebody's words as Markdown that shows them to the letter: no links, pictures, colours, icons or formulas."""
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|~:$&@])", r"\\\1", " ".join(str(words).split()))
