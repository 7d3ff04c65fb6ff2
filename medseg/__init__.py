"""medseg: medical image segmentation from a folder of cases to a model you can trust.

Importing this package loads nothing heavy; see ``medseg/cli.py`` for the commands and ``README.md`` for the rooms.
"""

__version__ = "0.1.0"
