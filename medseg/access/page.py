"""The page on which a user signs in or out: plain HTML that needs no script.

Knows nothing of how passwords are checked. Every text is escaped, whoever it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

_STYLE = """
body{background:#0e1117;color:#e6e6e6;font:16px system-ui,sans-serif;display:grid;place-items:center;min-height:95vh}
form{display:grid;gap:.6rem;width:18rem}
input,button{font:inherit;padding:.5rem;border-radius:.3rem;border:1px solid #555;background:#1b1f27;color:inherit}
button{background:#2f6db5;border:0;cursor:pointer}
p{margin:0;color:#ffb454}
a{color:#8ab4f8}
"""


def sign_in_page(texts: Mapping[str, str], user: str | None, message: str = "") -> str:
    """The page for somebody who is not signed in, or for ``user``, who may sign out; texts are the catalogue's."""
    said = {key: escape(text) for key, text in texts.items()}
    note = f'<p role="alert">{escape(message)}</p>' if message else ""
    if user is None:
        form = (
            f'<form method="post" action="/sign-in"><h1>{said["title"]}</h1>{note}'
            f'<label for="user">{said["user"]}</label>'
            '<input id="user" name="user" autocomplete="username" maxlength="64" required autofocus>'
            f'<label for="password">{said["password"]}</label>'
            '<input id="password" name="password" type="password" autocomplete="current-password" required>'
            f"<button>{said['sign_in']}</button></form>"
        )
    else:
        who = said["signed_in_as"].replace("{user}", escape(user))
        form = (
            f'<form method="post" action="/sign-out"><h1>{said["title"]}</h1><div>{who}</div>'
            f'<button>{said["sign_out"]}</button><a href="/">{said["go_on"]}</a></form>'
        )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{said['title']}</title><style>{_STYLE}</style><body>{form}</body></html>"
    )
