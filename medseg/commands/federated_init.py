"""``medseg federated init``: keys, certificates, service files and the app of a federation, as one folder.

``medseg federated init folder=prostate host=fl.example.org sites=[north,south]``
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from medseg.commands.console import say
from medseg.documents import read_text
from medseg.errors import SettingsError
from medseg.federation.offline import require_flower
from medseg.paths import shipped
from medseg.settings import Settings, build


class InitSettings(Settings):
    """Settings of ``medseg federated init``."""

    folder: Path
    """The new folder of the federation."""
    host: str = Field(pattern=r"^[A-Za-z0-9.:-]{1,253}$")
    """Name or address under which the hospitals reach the coordinator."""
    sites: tuple[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")], ...] = Field(min_length=1)
    """Names of the hospitals, in small letters without spaces."""
    port: int = Field(default=8443, ge=1, le=65535)
    """Where the hospitals reach it."""
    superlink_port: int = Field(default=9092, ge=1, le=65535)
    """Where Flower's SuperLink listens, on this machine only."""
    keys: Path | None = None
    """A folder with NAME.pub of hospitals that made their own key (ssh-keygen -t ecdsa -b 384); others get one."""


SETTINGS = (InitSettings,)


def run(words: Mapping[str, str]) -> None:
    """Write the folder, and say what goes where."""
    settings = build(InitSettings, words)
    require_flower()
    from medseg.federation.flower.control import build_app
    from medseg.federation.kit import Kit, write_kit

    if len(set(settings.sites)) < len(settings.sites):
        raise SettingsError(f"Each site has a name of its own, but sites={list(settings.sites)}.")
    kit = Kit(
        name=settings.folder.absolute().name.lower(),
        host=settings.host,
        port=settings.port,
        superlink_port=settings.superlink_port,
        sites=settings.sites,
        public_keys=_public_keys(settings.keys, settings.sites),
        app=build_app(shipped("federated")),
    )
    federation = write_kit(kit, settings.folder)
    say(f"{settings.folder}/coordinator stays here; {settings.folder}/sites/NAME goes to each hospital, by a safe way.")
    for name in federation.sites:
        made = (
            "with its own key" if name in kit.public_keys else "with a key made here: send it so that nobody reads it"
        )
        say(f"  {name}: {made}")
    say(f"The app that travels has the SHA-256 {federation.app}; hospitals approve it in site.toml.")
    say(f"Next: medseg federated serve folder={settings.folder}")


def _public_keys(folder: Path | None, sites: tuple[str, ...]) -> dict[str, str]:
    if folder is None:
        return {}
    if not folder.is_dir():
        raise SettingsError(f"There is no folder {folder}. keys= names one with NAME.pub of each hospital.")
    unknown = sorted(path.stem for path in folder.glob("*.pub") if path.stem not in sites)
    if unknown:
        raise SettingsError(f"{folder} holds keys of {unknown}, which are not among sites={list(sites)}.")
    return {name: read_text(folder / f"{name}.pub") for name in sites if (folder / f"{name}.pub").is_file()}
