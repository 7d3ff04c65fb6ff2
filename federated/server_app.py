"""The coordinator's end: everything it does is in the medseg that the coordinator has installed."""

from medseg.federation.flower.server import server_app

app = server_app()
