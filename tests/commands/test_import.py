"""The import command, and predicting with what it makes."""

import os

import numpy as np
import pytest
from golden.nnunet_cases import MODELS, image_of
from tiny_nnunet import write_nifti, write_nnunet_model

from medseg.cli import main
from medseg.images.formats import read_labels
from medseg.run_record import RunRecord

MODEL = MODELS["turned_to_ras"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_model_is_imported_and_predicts_as_nnunet_or_as_medseg(here, capsys):
    write_nnunet_model(here / "model", MODEL)
    assert main(["import", "nnunet=model", "output=bundle"]) == 0
    printed = capsys.readouterr().out
    assert "3d_own: fold(s) 0, trained by nnUNetTrainer" in printed
    assert "structure_1, structure_2; images are taken as canonical" in printed
    channels, affine = image_of(MODEL)
    write_nifti(here / "images" / "a.nii.gz", channels[0], affine)
    usual = ["predict", "model=bundle", "input=images", "picture=false"]
    assert main([*usual, "output=theirs", "compat=nnunet"]) == 0
    assert main([*usual, "output=ours", "quality=best"]) == 0
    assert RunRecord.load(here / "theirs" / "run.json").settings["compat"] == "nnunet"
    theirs, ours = (read_labels(here / folder / "a.nii.gz").array for folder in ("theirs", "ours"))
    assert 0.9 < np.mean(theirs == ours) <= 1
    assert main([*usual, "output=theirs", "skip_existing=true"]) == 2
    assert main([*usual, "output=both", "compat=nnunet", "combine=logits"]) == 2
    assert "Leave combine= out" in capsys.readouterr().err


def test_a_harmful_model_is_one_sentence_and_exit_code_2(here, capsys):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(here / "trace"),)

    write_nnunet_model(here / "model", MODEL, logging=Harmful())
    assert main(["import", "nnunet=model", "output=bundle"]) == 2
    shown = capsys.readouterr().err
    assert "posix.mkdir" in shown
    assert "Traceback" not in shown
    assert not (here / "trace").exists()
    assert not (here / "bundle").exists()


def test_no_folder_is_a_mistake(here, capsys):
    assert main(["import", "nnunet=[]", "output=bundle"]) == 2
    assert main(["import", "nnunet=nowhere", "output=bundle"]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
