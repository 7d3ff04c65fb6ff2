import numpy as np
import pytest
import torch

from medseg.cases.case import read_case_image
from medseg.cases.formats import read_dataset
from medseg.cli import main
from medseg.commands.explain import Explanation
from medseg.images.formats import read_image
from medseg.networks.build import build_network
from medseg.networks.weights import save_weights
from medseg.paths import Workspace
from medseg.planning.plan import Plan

from tiny import write_tiny_workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A network with random weights, as if it were trained."""
    workspace = Workspace(write_tiny_workspace(tmp_path_factory.mktemp("explained")))
    configuration = Plan.load(workspace.plan).configurations["3d_fullres"]
    torch.manual_seed(0)
    description = {
        "configuration_name": "3d_fullres",
        "configuration": configuration.model_dump(mode="json", exclude_none=True),
        "channels": 1,
        "classes": 3,
    }
    save_weights(
        workspace.weights("3d_fullres", 0), build_network(configuration.network, 3, 1, 3).state_dict(), description
    )
    return workspace


def explain(workspace, output, *words):
    return main(["explain", f"model={workspace.folder}", f"output={output}", "case=case_00", "label=ball", *words])


def test_a_map_lies_on_the_image_s_grid_with_a_picture_and_numbers(workspace, tmp_path, capsys):
    assert explain(workspace, tmp_path / "x", "point=[7,7,7]", "radius_mm=3", "sanity=true") == 0
    printed = capsys.readouterr().out
    assert "Rank correlation after randomising" in printed
    found = Explanation.load(tmp_path / "x" / "explanation.json")
    assert found.layer is not None
    assert found.sanity["verdict"] in printed
    image, written = (
        read_case_image(read_dataset(workspace.dataset).cases[0], 1),
        read_image(tmp_path / "x" / "map.nii.gz"),
    )
    assert written.shape == image.shape
    np.testing.assert_allclose(written.affine, image.affine)
    assert written.array.max() == pytest.approx(found.largest, rel=1e-3)
    assert (tmp_path / "x" / "explanation.png").stat().st_size > 10_000


def test_a_cascade_is_explained_with_the_labels_of_the_network_before_it(tmp_path):
    workspace = Workspace(write_tiny_workspace(tmp_path))
    plan = Plan.load(workspace.plan)
    first = plan.configurations["3d_fullres"]
    plan = plan.model_copy(
        update={
            "configurations": {"3d_lowres": first, "3d_cascade": first.model_copy(update={"previous": "3d_lowres"})}
        }
    )
    plan.model_copy(update={"default_configuration": "3d_cascade"}).save(workspace.plan)
    for name, channels in (("3d_lowres", 1), ("3d_cascade", 3)):
        configuration = plan.configurations[name]
        torch.manual_seed(channels)
        state = build_network(configuration.network, 3, channels, 3).state_dict()
        description = {"configuration": configuration.model_dump(mode="json", exclude_none=True)}
        description |= {"configuration_name": name, "channels": channels, "classes": 3}
        save_weights(workspace.weights(name, 0), state, description)
    words = ("point=[7,7,7]", "radius_mm=3", "configuration=3d_cascade")
    assert explain(workspace, tmp_path / "x", *words) == 0
    assert explain(workspace, tmp_path / "y", *words, "method=integrated_gradients") == 0
    found = Explanation.load(tmp_path / "y" / "explanation.json")
    assert found.configuration == "3d_cascade"
    assert read_image(tmp_path / "y" / "map.nii.gz").array.max() == pytest.approx(found.largest, rel=1e-3)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["case=nobody"],
            "neither a case of the model's dataset nor an image file. Some of the dataset's are: case_00",
        ),
        (["label=liver"], "Known are: ball, box"),
        (["layer=layer4", "point=[7,7,7]"], "Some are:"),
        (["point=[7,7,70]"], "outside of the image"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_no_output(workspace, tmp_path, capsys, words, sentence):
    given = {word.split("=")[0] for word in words}
    base = [word for word in ("case=case_00", "label=ball") if word.split("=")[0] not in given]
    assert main(["explain", f"model={workspace.folder}", f"output={tmp_path / 'x'}", *base, *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
