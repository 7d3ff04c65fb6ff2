"""Concepts and counterfactuals of a network that was trained to find a bright ball and a dark box."""

import csv

import numpy as np
import pytest

from medseg.cases.case import read_case_image
from medseg.cases.formats import read_dataset
from medseg.cli import main
from medseg.explanation.document import ConceptReport, Counterfactual
from medseg.images.formats import read_image
from medseg.inference.bundle import open_model
from medseg.inference.options import Options
from medseg.inference.predict import predict_volume
from medseg.paths import Workspace

from tiny import write_tiny_dataset, write_tiny_workspace
from tiny_networks import CPU


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    workspace = Workspace(write_tiny_workspace(tmp_path_factory.mktemp("explained")))
    words = (f"workspace={workspace.folder}", "fold=0", "iterations=150", "device=cpu", "validate_fold=false")
    assert main(["train", *words]) == 0
    return workspace


def explain(workspace, output, *words):
    return main(["explain", f"model={workspace.folder}", f"output={output}", *words])


def write_boxes(path, workspace, place):
    """Two boxes in each case, about the voxels that ``place`` gives for its labels."""
    with path.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["case", "z0", "z1", "y0", "y1", "x0", "x1"])
        for case in read_dataset(workspace.dataset).cases:
            for z, y, x in place(read_image(case.labels).array[0]):
                rows.writerow([case.name, z - 1, z + 2, y - 1, y + 2, x - 1, x + 2])
    return path


def in_the_ball(labels):
    return np.argwhere(labels == 1)[[60, -60]]


def anywhere(labels):
    random = np.random.default_rng(int(labels.sum()))
    return random.integers(2, 14, (2, 3))


def test_a_concept_that_is_the_structure_speaks_for_it_and_random_boxes_for_nothing(workspace, tmp_path, capsys):
    concept = write_boxes(tmp_path / "bright.csv", workspace, in_the_ball)
    assert explain(workspace, tmp_path / "x", "method=tcav", f"concept={concept}", "layer=last") == 0
    found = ConceptReport.load(tmp_path / "x" / "concept.json")
    ball, box = found.structures["ball"], found.structures["box"]
    assert ball.is_significant
    assert ball.score > 0.9
    assert box.score < 0.1
    assert ball.examples == 10
    assert ball.random_examples == 40
    assert "speaks for the structure" in " ".join(capsys.readouterr().out.split())
    other = write_boxes(tmp_path / "random.csv", workspace, anywhere)
    assert explain(workspace, tmp_path / "y", "method=tcav", f"concept={other}", "label=ball") == 0
    assert not ConceptReport.load(tmp_path / "y" / "concept.json").structures["ball"].is_significant


def test_examples_may_be_folders_of_images(workspace, tmp_path):
    images = write_tiny_dataset(tmp_path / "more", 8, first=20).cases[0].images[0].parent
    assert explain(workspace, tmp_path / "x", "method=tcav", f"concept={images}", "case=case_00", "label=ball") == 0
    found = ConceptReport.load(tmp_path / "x" / "concept.json")
    assert found.cases == ("case_00",)
    assert found.structures["ball"].examples >= 6


def test_a_counterfactual_takes_the_ball_out_of_the_image_and_the_whole_prediction_agrees(workspace, tmp_path, capsys):
    words = ("method=counterfactual", "case=case_04", "label=ball")
    assert explain(workspace, tmp_path / "x", *words) == 0
    found = Counterfactual.load(tmp_path / "x" / "counterfactual.json")
    assert found.was_found
    assert found.voxels_after < 0.3 * found.voxels_before
    assert "removes the structure" in capsys.readouterr().out
    case = next(case for case in read_dataset(workspace.dataset).cases if case.name == "case_04")
    image, changed = read_case_image(case, 1), read_image(tmp_path / "x" / "changed.nii.gz")
    difference = read_image(tmp_path / "x" / "difference.nii.gz").array
    np.testing.assert_allclose(changed.array - image.array, difference, atol=1e-2)
    labels = read_image(case.labels).array
    assert difference[labels == 1].mean() < -30  # the ball is 60 brighter than what is around it
    assert abs(difference[labels == 2]).max() < 1e-3
    network = open_model(workspace.folder).load(folds=[0])
    before, after = (predict_volume(one, network, Options(CPU, mirror=False)) == 1 for one in (image, changed))
    assert ((before & after).sum(), (after & ~before).sum()) == (found.voxels_after, found.elsewhere_after)
    for name in ("counterfactual.png", "changed.png"):
        assert (tmp_path / "x" / name).stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("method=tcav",), "needs examples"),
        (("method=tcav", "concept=nowhere.csv"), "neither a folder of images nor a CSV"),
        (("method=counterfactual", "case=case_00"), "Give case= and label="),
        (("method=counterfactual", "case=case_00", "label=ball", "point=[1,1,1]", "radius_mm=2"), "nothing to remove"),
    ],
)
def test_what_can_t_be_asked_is_one_sentence_and_leaves_no_output(workspace, tmp_path, capsys, words, sentence):
    assert explain(workspace, tmp_path / "x", *words) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "x").exists()
