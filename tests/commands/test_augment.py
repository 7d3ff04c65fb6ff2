"""``medseg augment`` draws what training does to a patch."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg.cli import main
from medseg.evaluation.example_pictures import Row, draw_examples

from tiny import TABLE, write_tiny_workspace


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_tiny_workspace(tmp_path)
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_picture_and_a_table_show_every_step_and_whether_it_is_on(workspace, capsys):
    assert main(["augment", "preview=true", f"workspace={workspace}", "examples=1", "augmentation.elastic=true"]) == 0
    shown = capsys.readouterr().out
    for step, state in (("rotation", "on"), ("elastic", "on"), ("motion", "off"), ("cutmix", "off")):
        assert any(step in line and state in line.split() for line in shown.splitlines()), step
    assert "stain" not in shown and "mistakes" not in shown  # no colour, no cascade
    picture = np.asarray(Image.open(workspace / "augmentations.png").convert("RGB")).astype(int)
    assert picture.shape[0] > 800 and picture.shape[1] > 300
    coloured = (picture.max(2) - picture.min(2)) > 60
    assert coloured.sum() > 500  # outlines of the labels


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["preview=false"], "write preview=true"),
        (["preview=true", "case=nobody"], "no case 'nobody'"),
        (["preview=true", "augmentation.elastik=true"], "augmentation.elastic"),
    ],
)
def test_what_can_not_be_drawn_is_said_in_one_sentence(workspace, words, said, capsys):
    assert main(["augment", f"workspace={workspace}", *words]) == 2
    assert said in capsys.readouterr().err


def test_colour_images_are_drawn_in_colour(tmp_path):
    image = np.zeros((3, 1, 12, 12), np.float32)
    image[0, :, :6], image[2, :, 6:] = 1, 1
    labels = np.zeros((1, 12, 12), np.uint8)
    draw_examples(tmp_path / "p.png", [Row("patch", [image], [labels])], TABLE, (1.0, 1.0, 1.0), "t", rgb=(0, 1, 2))
    picture = np.asarray(Image.open(tmp_path / "p.png").convert("RGB")).reshape(-1, 3).tolist()
    assert [255, 0, 0] in picture and [0, 0, 255] in picture
