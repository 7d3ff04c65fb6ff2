"""Flower as the messenger: the only part of medseg that imports flwr, whose API changes from release to release.

What is carried is medseg's own Request and Reply, as bytes; what Flower would decide itself (rounds, strategies, a
missing site) is decided by us. Importing this turns off what calls home, before flwr is first imported.
"""

from medseg.federation.offline import go_offline

go_offline()
