"""What all tests share: checked array types, repeatable examples, and the real data where it is present."""

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker has a core: threads of several workers that wait for one another by spinning would stop them all.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# The same examples in every run: a test that fails once in a while tells nothing about the change at hand.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

install_import_hook(
    ["medseg.images", "medseg.preprocessing", "medseg.evaluation", "medseg.inference"], "beartype.beartype"
)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images; the test is skipped where it is absent."""
    root = Path(__file__).parents[1]
    folder = Path(os.environ.get("MEDSEG_REAL_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; name its folder in MEDSEG_REAL_DATA")
    return folder
