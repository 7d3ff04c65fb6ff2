"""``medseg federated serve``: the coordinator of a federation, until it is stopped.

Flower's SuperLink on loopback, and before it the gateway that hospitals reach: ``medseg federated serve folder=DIR``
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from medseg.commands.console import say
from medseg.errors import MedsegError, SettingsError
from medseg.federation.offline import require_flower
from medseg.settings import Settings, build

_MOST_TOLD = 100


class ServeSettings(Settings):
    """Settings of ``medseg federated serve``."""

    folder: Path
    """The federation's folder, from 'medseg federated init'."""
    listen: str = "0.0.0.0"  # noqa: S104 (hospitals have to reach it; the SuperLink behind it listens on loopback)
    """Address of this machine at which the gateway listens."""
    networks: tuple[str, ...] = ()
    """Networks from which hospitals come, such as [192.0.2.0/24]; from everywhere where there is none."""
    gateway: bool = True
    """Run the gateway; false where nginx does its work (coordinator/nginx.conf)."""
    keep: Path | None = None
    """A folder for a copy of everything that hospitals send, as it arrives, for those who want to look into it."""


SETTINGS = (ServeSettings,)


def run(words: Mapping[str, str]) -> int:
    """Serve until a signal arrives; 0 then."""
    settings = build(ServeSettings, words)
    require_flower()
    from medseg.federation.federation_file import Place
    from medseg.federation.processes import ended_by_signals, last_lines, require_free
    from medseg.federation.superlink import superlink_running

    place = Place(settings.folder)
    federation = place.open()
    if settings.gateway:
        require_free(settings.listen, federation.port, "The gateway")
    networks = _networks(settings.networks)
    try:
        with ended_by_signals(), superlink_running(place, federation) as process:
            end = threading.Event()
            threading.Thread(target=lambda: (process.wait(), end.set()), daemon=True).start()
            place.audit.append("served", sites=sorted(federation.sites), app=federation.app)
            say(f"Serving {', '.join(federation.sites)} at {federation.host}:{federation.port}; Ctrl-C stops.")
            if settings.gateway:
                _serve_gateway(settings, networks, end)
            end.wait()
    except KeyboardInterrupt:
        say("Stopped.")
        return 0
    log = place.coordinator / "superlink.log"
    raise MedsegError(f"The SuperLink has ended. {log} ends with:\n  {last_lines(log)}")


def _serve_gateway(
    settings: ServeSettings, networks: tuple[IPv4Network | IPv6Network, ...], end: threading.Event
) -> None:
    import ssl

    from medseg.federation.federation_file import Place
    from medseg.federation.gateway import Gateway, serve_gateway

    place = Place(settings.folder)
    federation = place.open()
    gateway = Gateway(
        f"https://{federation.superlink}",
        ssl.create_default_context(cafile=place.authority),
        networks,
        _told_for_a_while(),
        _kept_in(settings.keep),
    )
    serve_gateway(gateway, settings.listen, federation.port, place.certificate, place.key, end)


def _told_for_a_while() -> Callable[[str], None]:
    """Says what was refused, until it has been said often enough: a scan of all ports should not fill a disk."""
    told = 0

    def tell(sentence: str) -> None:
        nonlocal told
        told += 1
        if told <= _MOST_TOLD:
            say(f"refused: {sentence}")
        if told == _MOST_TOLD:
            say("Further refusals are not told.")

    return tell


def _kept_in(folder: Path | None) -> Callable[[bytes], None]:
    if folder is None:
        return lambda _: None
    folder.mkdir(parents=True, exist_ok=True)

    def keep(body: bytes) -> None:
        if body:
            (folder / f"{secrets.token_hex(8)}.bin").write_bytes(body)

    return keep


def _networks(texts: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return tuple(ip_network(text) for text in texts)
    except ValueError as error:
        raise SettingsError(f"networks= should name networks such as [192.0.2.0/24], but {error}.") from None
