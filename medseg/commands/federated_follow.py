"""A run is started on the coordinator's SuperLink and watched until it ends; shared by ``run`` and ``resume``.

The run's own result says how it ended: that Flower's program ended well says nothing of the training.
"""

from __future__ import annotations

import hashlib
import signal
import time
from pathlib import Path

from medseg.commands.console import Bar, say, table
from medseg.commands.federated_protection import show_certificate
from medseg.errors import CheckpointError, MedsegError
from medseg.federation.comparison import Comparison, cost_rows, matrix_rows
from medseg.federation.conduct import RunOrder, RunResult, comparison_file, is_under_way, order_file, result_file
from medseg.federation.federation_file import Federation, Place
from medseg.federation.flower.control import FINISHED, Control, RunStatus, control_of
from medseg.federation.run_state import RunState

_PAUSE_S = 2.0


def tell_missing(place: Place, federation: Federation, order: RunOrder) -> None:
    """Say which of the run's sites are not there yet. Raises MedsegError where the SuperLink does not answer."""
    with control_of(federation.superlink, place.authority) as control:
        states = control.online(federation.keys())
    if away := [site for site in order.sites if states.get(site) != "online"]:
        say(f"Not there yet: {', '.join(away)}. Each step waits {order.policy.deadline:g} s at most (deadline=).")


def approved_app(place: Place, federation: Federation) -> bytes:
    """What travels to the sites. Raises MedsegError where it is not what they approved."""
    app = place.app.read_bytes()
    if hashlib.sha256(app).hexdigest() != federation.app:
        raise MedsegError(f"{place.app} is not the app that the sites approved. Put back the one that init wrote.")
    return app


def follow(place: Place, federation: Federation, name: str) -> int:
    """Start, wait, and give the verdict: 0 where the run is complete. Raises MedsegError where it is not.

    A run that is under way is not started, but waited for.
    """
    folder = place.run(name)
    order = RunOrder.load(order_file(folder))
    app = approved_app(place, federation)
    with control_of(federation.superlink, place.authority) as control:
        number = control.open_runs().get(str(folder.absolute())) if is_under_way(folder) else None
        if number is None:
            result_file(folder).unlink(missing_ok=True)
            place.audit.append("started", run=name, order=order.content_hash(), app=federation.app)
            number = control.start_run(app, {"run": str(folder.absolute())})
        else:
            say(f"The run '{name}' is under way.")
        say(f"Ctrl-C stops it; 'medseg federated resume folder={place.folder} name={name}' goes on.")
        try:
            status = _wait(control, number, folder, order)
        except KeyboardInterrupt:
            _stop(control, number)
            raise
    return _verdict(place, name, status)


def _stop(control: Control, number: int) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not keep the first from being told
    try:
        control.stop_run(number)
    finally:
        signal.signal(signal.SIGINT, before)


def _wait(control: Control, number: int, folder: Path, order: RunOrder) -> RunStatus:
    with Bar() as bar:
        bar.start(f"Rounds of {order.strategy}", order.settings.rounds)
        shown = 0
        while True:
            status = control.run_status(number)
            done = _rounds_done(folder)
            bar.advance(done - shown)
            shown = done
            if status.status == FINISHED:
                return status
            time.sleep(_PAUSE_S)


def _rounds_done(folder: Path) -> int:
    path = folder / "run.json"
    return RunState.load(path).round if path.is_file() else 0


def _verdict(place: Place, name: str, status: RunStatus) -> int:
    folder = place.run(name)
    if not result_file(folder).is_file():
        raise CheckpointError(
            f"The run's program ended without a result ({status.sub_status}: {status.details or 'no reason given'}). "
            f"Go on with: medseg federated resume folder={place.folder} name={name}"
        )
    result = RunResult.load(result_file(folder))
    place.audit.append("ended", run=name, status=result.status, rounds=result.rounds, weights=result.weights)
    if result.status in ("paused", "failed"):
        raise MedsegError(
            f"The run '{name}' is {result.status} after {result.rounds} rounds: {result.reason.rstrip('.')}. "
            f"Go on with: medseg federated resume folder={place.folder} name={name} (a run's words stay as they are; "
            "for others begin one under another name=)"
        )
    say(f"Carried: {status.bytes_sent / 1e6:.1f} MB to the sites, {status.bytes_received / 1e6:.1f} MB from them.")
    show_run(folder, result)
    return 0


def show_run(folder: Path, result: RunResult) -> None:
    """What the complete run in a folder has come to."""
    if result.status == "completed-with-gaps":
        say("Some site was missing in some round, as the run's policy allows; run.json says which and when.")
    say(f"{result.rounds} rounds done. Weights {result.weights}.")
    show_certificate(folder)
    comparison = Comparison.load(comparison_file(folder))
    table("Dice of held-out cases [95 % interval]", *matrix_rows(comparison))
    if untold := [site for site in comparison.sites if not any(site in row.cells for row in comparison.rows)]:
        say(
            f"No Dice came from {', '.join(untold)}: a site tells none over fewer held-out cases than its min_count, "
            "or without 'dice' among its metrics (site.toml). A test set in its dataset can hold out more than a fold."
        )
    table("Over sites, and what it cost", *cost_rows(comparison))
    if result.model:
        say(f"Model: {folder} (model={folder} in every command)")
