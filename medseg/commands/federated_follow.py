"""A run is started on the coordinator's SuperLink and watched until it ends; shared by ``run`` and ``resume``.

The run's own result says how it ended: that Flower's program ended well says nothing of the training.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from medseg.commands.console import Bar, say, table
from medseg.commands.federated_protection import show_certificate
from medseg.errors import CheckpointError, MedsegError
from medseg.federation.comparison import Comparison, cost_rows, matrix_rows
from medseg.federation.conduct import RunOrder, RunResult, comparison_file, order_file, result_file
from medseg.federation.federation_file import Federation, Place
from medseg.federation.flower.control import Control, RunStatus, control_of
from medseg.federation.run_state import RunState

_PAUSE_S = 2.0
_FINISHED = "finished"


def follow(place: Place, federation: Federation, name: str) -> int:
    """Start, wait, and give the verdict: 0 where the run is complete. Raises MedsegError where it is not."""
    folder = place.run(name)
    order = RunOrder.load(order_file(folder))
    app = place.app.read_bytes()
    if hashlib.sha256(app).hexdigest() != federation.app:
        raise MedsegError(f"{place.app} is not the app that the sites approved. Put back the one that init wrote.")
    result_file(folder).unlink(missing_ok=True)
    with control_of(federation.superlink, place.authority) as control:
        place.audit.append("started", run=name, order=order.content_hash(), app=federation.app)
        number = control.start_run(app, {"run": str(folder.absolute())})
        try:
            status = _wait(control, number, folder, order)
        except KeyboardInterrupt:
            control.stop_run(number)
            raise
    return _verdict(place, name, status)


def _wait(control: Control, number: int, folder: Path, order: RunOrder) -> RunStatus:
    with Bar() as bar:
        bar.start(f"Rounds of {order.strategy}", order.settings.rounds)
        shown = 0
        while True:
            status = control.run_status(number)
            done = _rounds_done(folder)
            bar.advance(done - shown)
            shown = done
            if status.status == _FINISHED:
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
            f"Go on with: medseg federated resume folder={place.folder} name={name}"
        )
    if result.status == "completed-with-gaps":
        say("Some site was missing in some round, as the run's policy allows; run.json says which and when.")
    say(f"{result.rounds} rounds done. Weights {result.weights}.")
    say(f"Carried: {status.bytes_sent / 1e6:.1f} MB to the sites, {status.bytes_received / 1e6:.1f} MB from them.")
    show_certificate(folder)
    comparison = Comparison.load(comparison_file(folder))
    table("Dice of held-out cases [95 % interval]", *matrix_rows(comparison))
    table("Over sites, and what it cost", *cost_rows(comparison))
    if result.model:
        say(f"Model: {folder} (model={folder} in every command)")
    return 0
