"""A hospital's end: everything it does is in the medseg that the hospital has installed itself."""

from medseg.federation.flower.client import client_app

app = client_app()
