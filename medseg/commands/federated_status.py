"""``medseg federated status``: how a federation or a site stands, and whether its log was changed afterwards.

``medseg federated status folder=DIR`` on the coordinator, ``medseg federated status site=site.toml`` at a hospital.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.commands.console import say, table
from medseg.errors import MedsegError, SettingsError
from medseg.federation.offline import require_flower
from medseg.paths import shipped
from medseg.settings import Settings, build

if TYPE_CHECKING:
    from medseg.chained_log import ChainedLog
    from medseg.federation.federation_file import Federation, Place


class StatusSettings(Settings):
    """Settings of ``medseg federated status``."""

    folder: Path | None = None
    """The federation's folder, on the coordinator."""
    site: Path | None = None
    """The site.toml, at a hospital."""


SETTINGS = (StatusSettings,)


def run(words: Mapping[str, str]) -> int:
    """Show it; 2 where a log was changed."""
    settings = build(StatusSettings, words)
    require_flower()
    if (settings.folder is None) == (settings.site is None):
        raise SettingsError("Write folder=DIR on the coordinator, or site=site.toml at a hospital.")
    if settings.folder is not None:
        from medseg.federation.federation_file import Place

        return _show_federation(Place(settings.folder))
    assert settings.site is not None
    return _show_site(settings.site)


def _show_federation(place: Place) -> int:
    federation = place.open()
    runs = {path.parent for path in place.run("any").parent.glob("*/order.yaml")}
    nodes, busy = _asked(place, federation, runs)
    table(f"Sites of {federation.name}", ["site", "state"], [[name, nodes.get(name, "?")] for name in federation.sites])
    found = [(folder.name, *_state(folder, folder in busy)) for folder in sorted(runs)]
    if found:
        table("Runs", ["run", "status", "rounds"], [[name, status, rounds] for name, status, rounds, _ in found])
    for name, *_, more in found:
        if more:
            say(f"{name}: {more}")
    return _show_log(place.audit)


def _asked(place: Place, federation: Federation, runs: Iterable[Path]) -> tuple[dict[str, str], set[Path]]:
    """What the SuperLink says: the state of each site, and which runs are under way."""
    from medseg.federation.flower.control import control_of

    try:
        with control_of(federation.superlink, place.authority) as control:
            open_runs = control.open_runs()
            busy = {folder for folder in runs if str(folder.absolute()) in open_runs}
            return control.online(federation.keys()), busy
    except MedsegError as error:
        say(str(error))
        return {}, set()


def _state(folder: Path, busy: bool) -> tuple[str, str, str]:
    """Of a run its status, its rounds, and its weights or why it has none."""
    from medseg.federation.conduct import RunOrder, RunResult, order_file, result_file
    from medseg.federation.run_state import RunState

    of = RunOrder.load(order_file(folder)).settings.rounds
    if not busy and result_file(folder).is_file():
        result = RunResult.load(result_file(folder))
        return result.status, f"{result.rounds}/{of}", f"weights {result.weights}" if result.weights else result.reason
    done = RunState.load(folder / "run.json").round if (folder / "run.json").is_file() else 0
    return ("under way" if busy else "to be resumed"), f"{done}/{of}", ""


def _show_site(path: Path) -> int:
    from medseg.federation.audited import ANSWERED, REFUSED, Used, spent_epsilon
    from medseg.federation.site_file import SiteFile

    site_file = SiteFile.load(path)
    entries = list(site_file.audit().read())
    used, policy = Used.of(entries), site_file.policy
    answered = [entry for entry in entries if entry["what"] == ANSWERED]
    rows = [
        ["answers", f"{len(answered)}, {sum(bool(entry['error']) for entry in answered)} of them errors"],
        ["apps approved", _approved(site_file.apps)],
        ["apps refused", str(sum(entry["what"] == REFUSED for entry in entries))],
        ["left the site", f"{used.bytes / 1e6:.1f} MB of {policy.max_gigabytes * 1e3:.0f} MB allowed"],
        ["worked", f"{used.seconds / 3600:.2f} h of {policy.max_hours:g} h allowed"],
    ]
    if (spent := spent_epsilon(site_file.folder)) is not None:
        rows.append(["spent on its patients", f"epsilon {spent:.2f} of {policy.epsilon_budget:g} allowed"])
    table(f"Site {site_file.name}", ["what", ""], rows)
    table("Last answers", ["at", "run", "action", "round", "bytes", "error"], [_answer_row(e) for e in answered[-10:]])
    return _show_log(site_file.audit())


def _approved(apps: Sequence[str]) -> str:
    """How many, and whether the app of the medseg that is installed here is one of them."""
    from medseg.federation.flower.control import build_app

    own = hashlib.sha256(build_app(shipped("federated"))).hexdigest()
    known = (
        "that of the medseg installed here is" if own in apps else f"that of the medseg installed here, {own}, is not"
    )
    return f"{len(apps)}; {known} among them"


def _answer_row(entry: Mapping[str, object]) -> list[str]:
    return [str(entry[name]) for name in ("at", "run", "action", "round", "bytes", "error")]


def _show_log(log: ChainedLog) -> int:
    verdict = log.verify()
    if verdict.complaint is not None:
        say(f"The log can't be trusted: {verdict.complaint}")
        return 2
    say(f"Log {log.path}: {verdict.entries} entries, unbroken, the last has the hash {verdict.head}.")
    return 0
