"""The coordinator's end in Flower: the app that conducts a run over the Grid, with every message in the log.

Knows nothing of rounds. Flower starts it anew for every run and for every resumption; what it needs to know stands in
the run's own folder, whose path is the only setting.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from medseg.federation.conduct import conduct
from medseg.federation.federation_file import Place
from medseg.federation.flower.transport import FlowerTransport, Note
from medseg.federation.messages import Reply, Request, hash_arrays
from medseg.federation.processes import end_with_parent


def server_app() -> ServerApp:
    """The app that travels no further than the coordinator."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        end_with_parent()
        folder = Path(str(context.run_config["run"]))
        place = Place.of_run(folder)
        conduct(FlowerTransport(grid, place.open().keys(), note=_logged(place, folder.name)), folder)

    return app


def _logged(place: Place, run: str) -> Note:
    def note(what: str, site: str, message: Request | Reply, data: bytes) -> None:
        place.audit.append(
            what,
            site=site,
            run=run,
            action=message.action,
            round=message.round,
            plan=message.plan_sha256 if isinstance(message, Request) else "",
            error=(message.error or "") if isinstance(message, Reply) else "",
            arrays=hash_arrays(message.arrays) if message.arrays else "",
            bytes=len(data),
        )

    return note
