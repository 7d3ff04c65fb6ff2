"""A web page that needs nothing but itself: headings, tables, lists and pictures, every text escaped.

Knows nothing of what is told. A page asks no other machine for anything, and its Content-Security-Policy forbids it to,
whatever a name in a header may hold; it has no script. Pictures are part of the file.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from medseg.files import write_text

_STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--faint:#6b7280;--line:#dfe3e8;--page:#fff;--warn:#fff4d6;--bad:#b00020}
@media(prefers-color-scheme:dark){:root{--ink:#e6e6e6;--faint:#9aa4b0;--line:#3a3f46;--page:#16181c;--warn:#4a3b10;
--bad:#ff8a8a}}
body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:1100px;margin:2em auto;
padding:0 1em}
h1{font-size:1.5em;margin:.2em 0}h2{font-size:1.15em;margin:0 0 .4em}h3{font-size:1em;margin:1em 0 .2em}
h2.code{font-size:1.05em;font-family:ui-monospace,monospace}
table{border-collapse:collapse;margin:.4em 0 .8em}td,th{padding:.2em .9em .2em 0;text-align:left;vertical-align:top}
th{color:var(--faint);font-weight:500}tr+tr td{border-top:1px solid var(--line)}
.n{text-align:right;font-variant-numeric:tabular-nums}.wide{overflow-x:auto}
section{border-top:1px solid var(--line);padding:1em 0}.failed h2{color:var(--bad)}
.banner{background:var(--warn);padding:.6em 1em;border-radius:4px}.banner ul{margin:.2em 0}
.beside{display:flex;gap:2em;justify-content:space-between;align-items:flex-start;flex-wrap:wrap}
.beside img{max-width:45%;max-height:420px}
figure{margin:.6em 0}.small figure{max-width:640px}figcaption,small,.faint{color:var(--faint)}
img{max-width:100%;height:auto;border-radius:4px;background:#fff}ul{margin:.3em 0;padding-left:1.2em}
nav a{margin-right:1.1em}a{color:inherit}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Html(str):
    """Text that is HTML already; every other text is escaped when it becomes part of a page."""

    __slots__ = ()


def text(content: str) -> Html:
    """Any text as HTML."""
    return content if isinstance(content, Html) else Html(escape(content))


def tag(name: str, *content: str, **attributes: str) -> Html:
    """An element around its content; ``class_`` stands for the attribute class."""
    written = "".join(f' {key.rstrip("_")}="{escape(value)}"' for key, value in attributes.items() if value)
    return Html(f"<{name}{written}>{''.join(map(text, content))}</{name}>")


def section(title: str, *content: str, name: str = "") -> Html:
    """A part of the page under a heading; nothing where there is no content. ``name`` is what links lead to."""
    body = [part for part in content if part]
    return tag("section", tag("h2", title), *body, id=name) if body else Html()


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Html:
    """A table whose columns of numbers stand on the right; nothing without rows."""
    heads, rows = list(heads), [list(row) for row in rows]
    if not rows:
        return Html()
    numbers = [bool(heads) and all(_is_number(cell) for cell in column) for column in zip(*rows, strict=True)]
    head = [tag("tr", *_cells("th", heads, numbers))] if heads else []
    return tag("div", tag("table", *head, *(tag("tr", *_cells("td", row, numbers)) for row in rows)), class_="wide")


def bullets(sentences: Iterable[str]) -> Html:
    """A list; nothing without sentences."""
    items = [tag("li", sentence) for sentence in sentences]
    return tag("ul", *items) if items else Html()


def banner(title: str, sentences: Sequence[str] = ()) -> Html:
    """What nobody should miss."""
    return tag("div", tag("strong", title), bullets(sentences), class_="banner")


def link(address: str, content: str) -> Html:
    """A link to a file beside the page or to a part of it; ``address`` is a relative path or starts with #."""
    return tag("a", content, href=address if address.startswith("#") else quote(address))


def picture(path: Path, told: str, caption: bool = True) -> Html:
    """A PNG as part of the page, with what it shows; nothing where there is no such file."""
    if not path.is_file():
        return Html()
    return figure(f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}", told, caption)


def figure(source: str, told: str, caption: bool = True) -> Html:
    """A picture by its address (or data) with what it shows, below it or only for those who can't see it."""
    image = Html(f'<img loading="lazy" alt="{escape(told)}" src="{escape(source)}">')
    return tag("figure", image, tag("figcaption", told)) if caption else image


def write_page(path: Path, title: str, body: Iterable[str], linked_pictures: bool = False) -> None:
    """Write the page whole; ``linked_pictures`` may lie in folders beside it."""
    policy = f"{_POLICY} 'self' file:" if linked_pictures else _POLICY
    write_text(
        path,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{''.join(map(text, body))}</body></html>\n",
    )


def _cells(name: str, contents: Iterable[str], numbers: Iterable[bool]) -> list[Html]:
    return [tag(name, one, class_="n" if number else "") for one, number in zip(contents, numbers, strict=True)]


def _is_number(content: str) -> bool:
    return content == "-" or content.replace(".", "", 1).removeprefix("-").isdigit()
