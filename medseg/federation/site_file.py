"""``site.toml``: a hospital's own file, which says where its data are, which apps may run there and what may leave.

Knows nothing of what is asked. It is read anew for every message, from the hospital's disk; nothing in a message can
change it. Paths in it are relative to its own folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from medseg.chained_log import ChainedLog
from medseg.documents import Document
from medseg.errors import MedsegError, SettingsError
from medseg.federation.policy import SitePolicy
from medseg.federation.site import Site
from medseg.planning.plan import Machine

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_PATHS = ("dataset", "folder", "authority", "key")


class SiteFile(Document):
    """What one hospital has decided."""

    kind: ClassVar[str] = "site"
    error: ClassVar[type[MedsegError]] = SettingsError

    name: Slug
    """As the coordinator knows the site."""
    coordinator: Annotated[str, Field(pattern=r"^[^\s/]+:\d{1,5}$")]
    """Host and port of the coordinator's gateway."""
    authority: Path = Path("ca.crt")
    """Certificate by which the coordinator is recognised."""
    key: Path = Path("node.key")
    """The site's private key; readable by its owner only."""
    dataset: Path
    """Folder or file of the site's dataset; only read."""
    folder: Path = Path("work")
    """The site's own workspace."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU where there is one."""
    apps: tuple[Sha256, ...] = ()
    """SHA-256 of every app that may run here; none may where there is none."""
    policy: SitePolicy = SitePolicy()
    """What may be asked, and what may leave."""
    machine: Machine | None = None
    """What the site declares to have, so that the common plan fits; nothing is declared without it."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and validate; raises SettingsError naming the field."""
        path = Path(path).absolute()
        found = super().load(path)
        return found.model_copy(update={name: path.parent / getattr(found, name) for name in _PATHS})

    def site(self) -> Site:
        """The Site that answers."""
        return Site(self.name, self.dataset, self.folder, self.policy, self.device, self.machine)

    def audit(self) -> ChainedLog:
        """What was asked of this site, and what left."""
        return ChainedLog(self.folder / "audit.jsonl")

    def require_safe_key(self) -> None:
        """Raise SettingsError unless the private key is there and nobody else can read it."""
        if not self.key.is_file():
            raise SettingsError(f"There is no private key {self.key}. 'key' in site.toml says where it is.")
        if self.key.stat().st_mode & 0o077:
            raise SettingsError(f"Others can read the private key {self.key}. Run: chmod 600 {self.key}")


def write_site_file(path: Path, name: str, coordinator: str, app: str) -> None:
    """Write a site.toml for a hospital to look through and to fill in."""
    rules = "\n".join(_rule(key, field.description or "") for key, field in SitePolicy.model_fields.items())
    text = _TEMPLATE.format(name=_toml(name), coordinator=_toml(coordinator), app=_toml(app), rules=rules)
    SiteFile.from_text(text, str(path))  # what is written can be read
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _rule(key: str, meaning: str) -> str:
    value = getattr(SitePolicy(), key)
    line = f"# {key} is not set" if value is None else f"{key} = {_toml(value)}"
    return f"# {' '.join(meaning.split())}\n{line}"


def _toml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)  # JSON's scalars and lists are TOML's


_TEMPLATE = """\
# What this hospital allows in the federation. Only this file decides; the coordinator can't change it.
kind = "site"
format = 1

name = {name}
coordinator = {coordinator}
authority = "ca.crt"
key = "node.key"

# Folder of this hospital's dataset; it is only read. An absolute path, or one relative to this file.
dataset = "/path/to/dataset"
# Where prepared images, the audit log and the texts of errors stay.
folder = "work"
# auto, cpu, cuda or mps
device = "auto"
# SHA-256 of the apps that may run here. Read the app before you approve it: it is two short files.
apps = [{app}]

[policy]
{rules}

# What this hospital's machine has, so that the common plan fits it. Without these lines nothing is told of it.
# [machine]
# device = "cuda"
# memory_bytes = 16000000000
"""
