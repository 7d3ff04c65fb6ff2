"""How the rooms below the command line tell how far they are, without knowing who listens."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """A listener for long work; the command line draws a bar, tests and libraries pass ``Silent()``."""

    def start(self, title: str, total: int) -> None:
        """A piece of work of ``total`` steps begins (replaces the one before)."""

    def advance(self, steps: int = 1, **shown: str) -> None:
        """``steps`` more are done; ``shown`` are short texts to display, such as ``loss='0.31'``."""

    def note(self, sentence: str) -> None:
        """Something the user should read."""

    def finish(self) -> None:
        """The piece of work is done."""


class Silent:
    """A Progress that tells nobody."""

    def start(self, title: str, total: int) -> None:
        pass

    def advance(self, steps: int = 1, **shown: str) -> None:
        pass

    def note(self, sentence: str) -> None:
        pass

    def finish(self) -> None:
        pass
