"""Flower as the messenger: the only part of medseg that imports flwr, whose API changes from release to release.

What is carried is medseg's own Request and Reply, as bytes; what Flower would decide itself (rounds, strategies, a
missing site) is decided by us. Importing this turns off what calls home, before flwr is first imported.
"""

import importlib
import warnings

from medseg.federation.offline import go_offline

go_offline()
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # the typer that Flower pins speaks to click by older names
    importlib.import_module("typer")
