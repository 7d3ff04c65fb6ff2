"""The wheel holds what it should, and nothing from the working folder that it should not."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from medseg.review.niivue import FILE

ROOT = Path(__file__).parents[2]


@pytest.mark.deploy
def test_the_wheel_ships_the_rooms_and_no_stray_files(tmp_path: Path) -> None:
    stray = ROOT / "datasets" / "patient.nii.gz"
    stray.write_bytes(b"private")
    try:
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
        subprocess.run(build, check=True, capture_output=True)
    finally:
        stray.unlink()
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "medseg/cli.py" in names
    assert "medseg/py.typed" in names
    assert "medseg/shipped/plans/default.yaml" in names
    assert "medseg/shipped/datasets/phantom_abdomen.yaml" in names
    assert "medseg/shipped/apps/.streamlit/config.toml" in names
    assert "medseg/shipped/apps/viewer/texts/en.yaml" in names
    assert "medseg/shipped/apps/viewer/assets/niivue.LICENSE.txt" in names
    assert not [name for name in names if name.endswith("build_hook.py")]
    # The build has fetched it, unless there is no way to npm here.
    fetched = (ROOT / "apps/viewer/assets" / FILE).is_file()
    assert (f"medseg/shipped/apps/viewer/assets/{FILE}" in names) == fetched
    assert all(name.startswith(("medseg/", "medseg-")) for name in names)
    assert not [name for name in names if name.endswith((".nii.gz", ".nii", ".pyc"))]
    target = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True)
    code = "import sys; sys.path.insert(0, sys.argv[1]); from medseg.cli import main; sys.exit(main(['info']))"
    shown = subprocess.run(
        [sys.executable, "-c", code, str(target)], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert "phantom" in shown.stdout or "nnunet" in shown.stdout
