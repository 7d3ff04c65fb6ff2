"""The page on which a user signs in or out: plain HTML that needs no script.

Knows nothing of how passwords are checked. Every text is escaped, whoever it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

_STYLE = """
body{background:#0e1117;color:#e6e6e6;font:16px system-ui,sans-serif;display:grid;place-items:center;min-height:95vh}
main,form{display:grid;gap:.6rem;width:20rem}
h1{margin:0 0 .6rem}
input,button{font:inherit;padding:.5rem;border-radius:.3rem;border:1px solid #555;background:#1b1f27;color:inherit}
button{background:#2f6db5;border:0;cursor:pointer}
p{margin:0;color:#ffb454}
a.button{background:#2f6db5;color:#fff;padding:.6rem;border-radius:.3rem;text-align:center;text-decoration:none}
a{color:#8ab4f8}
"""


def sign_in_page(texts: Mapping[str, str], form: str, user: str | None, message: str = "") -> str:
    """The page for somebody who is not signed in, or for ``user``, who may sign out.

    Texts are the catalogue's; ``form`` is HTML, by which to sign in.
    """
    note = f'<p role="alert">{escape(message)}</p>' if message else ""
    if user is None:
        return _page(texts, f"<h1>{escape(texts['title'])}</h1>{note}{form}")
    who = escape(texts["signed_in_as"]).replace("{user}", escape(user))
    return _page(
        texts,
        f'<h1>{escape(texts["title"])}</h1><div>{who}</div><form method="post" action="/sign-out">'
        f'<button>{escape(texts["sign_out"])}</button></form><a href="/">{escape(texts["go_on"])}</a>',
    )


def password_form(texts: Mapping[str, str]) -> str:
    """A user's name and a password."""
    said = {key: escape(text) for key, text in texts.items()}
    return (
        f'<form method="post" action="/sign-in"><label for="user">{said["user"]}</label>'
        '<input id="user" name="user" autocomplete="username" maxlength="64" required autofocus>'
        f'<label for="password">{said["password"]}</label>'
        '<input id="password" name="password" type="password" autocomplete="current-password" required>'
        f"<button>{said['sign_in']}</button></form>"
    )


def link_form(text: str, address: str) -> str:
    """A link that leads to where users sign in. No form: browsers hold a form's redirects to this server."""
    return f'<a class="button" href="{escape(address)}">{escape(text)}</a>'


def go_on_page(texts: Mapping[str, str]) -> str:
    """A page that goes on to the cases by itself.

    Not a redirect: of one that another site began browsers hold back the session's cookie, which is SameSite=Strict.
    """
    return _page(texts, f'<a href="/">{escape(texts["go_on"])}</a>', '<meta http-equiv="refresh" content="0;url=/">')


def _page(texts: Mapping[str, str], body: str, head: str = "") -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"{head}<title>{escape(texts['title'])}</title><style>{_STYLE}</style><body><main>{body}</main></body></html>"
    )
