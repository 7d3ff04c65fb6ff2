"""One page for all, and one for each case."""

import re
import shutil
from urllib.parse import unquote

import pytest

from medseg.cases.formats import read_dataset
from medseg.cli import main
from medseg.evaluation.scores import Scores
from medseg.paths import Workspace


@pytest.fixture(scope="module")
def workspace(trained, tmp_path_factory):
    """A copy with an explanation of one case."""
    folder = tmp_path_factory.mktemp("reported")
    shutil.copytree(trained.folder, folder / "W")
    words = ["case=case_01", "label=box", "point=[15,17,8]", "sanity=true"]
    assert main(["explain", f"model={folder / 'W'}", *words]) == 0
    return Workspace(folder / "W")


def pictures_in(page):
    return page.count("data:image/png;base64,")


def test_a_workspace_s_page_tells_scores_calibration_and_the_worst_cases(workspace, tmp_path, capsys):
    assert main(["report", f"workspace={workspace.folder}", f"output={tmp_path / 'r'}", "cases=2", "worst=1"]) == 0
    assert "3 more have none" in capsys.readouterr().out
    page = (tmp_path / "r" / "index.html").read_text()
    for word in ("3d_fullres: 5 cases, held out by fold(s) 0, 1", "ECE", "outer contour", "only 5 cases with labels"):
        assert word in page
    assert pictures_in(page) == 5  # scores, reliability, the worst case, two trainings
    scores = [Scores.load(workspace.fold("3d_fullres", fold) / "scores.json").cases for fold in (0, 1)]
    worst_first = [
        case.case for case in sorted((one for fold in scores for one in fold), key=lambda one: one.mean_dice)
    ]
    assert re.findall(r'href="cases/(\w+)\.html"', page) == worst_first[:2]
    positions = [page.rindex(name) for name in worst_first]
    assert positions == sorted(positions)
    assert {path.name for path in (tmp_path / "r" / "cases").iterdir()} == {f"{name}.html" for name in worst_first[:2]}


def test_the_page_of_a_case_shows_its_scores_and_why(workspace, tmp_path):
    assert main(["report", f"workspace={workspace.folder}", f"output={tmp_path / 'r'}", "cases=all", "worst=0"]) == 0
    page = (tmp_path / "r" / "cases" / "case_01.html").read_text()
    assert pictures_in(page) == 2
    assert "hires_cam" in page
    assert "Mean logit" in page
    other = (tmp_path / "r" / "cases" / "case_02.html").read_text()
    assert "hires_cam" not in other
    assert 'href="../index.html"' in other
    assert "HD95" in other


def test_predictions_are_told_the_most_urgent_first_with_maps_and_guarantees(workspace, tmp_path):
    images = read_dataset(workspace.dataset).cases[0].images[0].parent
    out = tmp_path / "p"
    words = [f"model={workspace.folder}", f"input={images}", f"output={out}", "picture=false", "rate=0.6"]
    assert main(["predict", *words, "uncertainty=tta"]) == 0
    assert main(["report", f"predictions={out}", "cases=1"]) == 0
    page = (out / "report" / "index.html").read_text()
    first = (out / "worklist.csv").read_text().splitlines()[1].split(",")[0]
    assert re.findall(r'href="cases/([^"]+)\.html"', page) == [first]
    case = (out / "report" / "cases" / f"{unquote(first)}.html").read_text()
    assert pictures_in(case) == 2
    assert "exchangeable" in case
    assert "Review score" in case


def test_an_image_that_is_gone_costs_its_picture_and_is_told(workspace, tmp_path):
    images = shutil.copytree(read_dataset(workspace.dataset).cases[0].images[0].parent, tmp_path / "images")
    out = tmp_path / "p"
    assert main(["predict", f"model={workspace.folder}", f"input={images}", f"output={out}", "picture=false"]) == 0
    shutil.rmtree(images)
    assert main(["report", f"predictions={out}", "cases=1"]) == 0
    (case,) = (out / "report" / "cases").iterdir()
    assert "No picture was drawn: there is no image of it" in case.read_text()
    assert "Nothing says how sure the predictions are" in (out / "report" / "index.html").read_text()


def test_what_is_no_report_is_never_replaced(workspace, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["report", f"workspace={workspace.folder}", f"output={tmp_path}"]) == 2
    assert "holds no index.html; nothing was replaced" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").exists()


def test_a_folder_that_predict_did_not_write_is_refused(workspace, tmp_path, capsys):
    assert main(["report", f"predictions={workspace.fold('3d_fullres', 0)}"]) == 2
    assert "was written by 'medseg train'" in capsys.readouterr().err
    assert main(["report", f"workspace={tmp_path}"]) == 2
    assert "is no workspace" in capsys.readouterr().err
