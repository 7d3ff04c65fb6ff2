"""C10, nnU-Net's side: verify_dataset_integrity and the fingerprint of plan_and_preprocess."""

import contextlib
import io
import os
import shutil
import tempfile
from pathlib import Path


def prepare(request):
    """``dataset`` is nnU-Net's raw layout; ``faulty`` are datasets by the name of their fault."""
    scratch = Path(tempfile.mkdtemp(dir=request["scratch"]))
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (scratch / name).mkdir()
        os.environ[name] = str(scratch / name)
    raw = scratch / "nnUNet_raw" / "Dataset999_Benchmark"
    shutil.copytree(request["dataset"], raw)
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.experiment_planning.verify_dataset_integrity import (
        check_cases,
        verify_dataset_integrity,
        verify_labels,
    )
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    def finds(folder):
        """Its two checks of a case, for every case, without its pool of processes; a printed warning counts."""
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                for label in sorted((Path(folder) / "labelsTr").iterdir()):
                    image = Path(folder) / "imagesTr" / label.name.replace(".nii.gz", "_0000.nii.gz")
                    fine = verify_labels(str(label), SimpleITKIO, [0, 1, 2])
                    if not (fine and check_cases([str(image)], str(label), 1, SimpleITKIO)):
                        return True
        except Exception:
            return True
        return bool(said.getvalue().strip())

    caught = {name: finds(folder) for name, folder in request["faulty"].items()}

    def work():
        verify_dataset_integrity(str(raw), max(1, request["workers"]))
        DatasetFingerprintExtractor(999, max(1, request["workers"])).run(overwrite_existing=True)
        return caught, {}

    return work


def keep(result, folder):
    """Which faults were found."""
    (folder / "caught.txt").write_text("\n".join(name for name, found in result.items() if found))
