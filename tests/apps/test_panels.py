"""Corrections, comparison, explanations, jobs and uploads, on the pages."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_review import patient, write_patient, write_read_workspace

from medseg.explanation.document import Explanation
from medseg.files import hash_file
from medseg.images.formats import read_labels, write_image
from medseg.review.cache import open_case
from medseg.review.records import ReviewLog
from medseg.review.sources import SourceSettings, open_source


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return write_read_workspace(tmp_path)


def pictures(app) -> list[str]:
    return [one.proto.json for one in app.get("bidi_component") if one.proto.json]


def ball(workspace: Path) -> tuple[int, int, int]:
    """A voxel of the ball on the page."""
    source = open_source(SourceSettings(workspace=workspace))
    one = open_case(source.cases[0], source.cache)
    z, y, x = (int(at) for at in np.argwhere(np.asarray(one.labels(source.cases[0].findings[0])) == 1)[0])
    return z, y, x


def test_a_part_is_removed_as_a_new_version_and_comes_back_by_undo(page, workspace) -> None:
    original = workspace / "3d_fullres/fold_0/validation/case_00.nii.gz"
    before = hash_file(original)
    app = page(f"workspace={workspace}")
    app.session_state["medseg_place"] = ball(workspace)
    app.text_input(key="reviewer").set_value("Dr X").run()
    app.button(key="remove").click().run()
    assert not app.exception and not app.error
    assert app.selectbox(key="finding_case_00").value == "correction 1"
    assert set(np.unique(read_labels(workspace / "review/corrections/case_00/1.nii.gz").array)) == {0, 2}
    app.button(key="undo").click().run()
    assert app.selectbox(key="finding_case_00").value == "3d_fullres, fold 0"
    assert hash_file(original) == before


def test_growing_makes_the_volume_larger_and_a_correction_without_a_name_is_refused(page, workspace) -> None:
    app = page(f"workspace={workspace}")
    volume = float(app.dataframe[0].value["mL"][0])
    app.button(key="grow").click().run()
    assert any("name" in one.value for one in app.error)
    app.text_input(key="reviewer").set_value("Dr X").run()
    app.number_input(key="by_mm").set_value(2.0).run()
    app.button(key="grow").click().run()
    assert float(app.dataframe[0].value["mL"][0]) > volume


def test_the_export_for_other_programs_says_where_it_is(page, workspace) -> None:
    app = page(f"workspace={workspace}")
    app.button(key="export").click().run()
    assert len(app.success) == 1
    assert (workspace / "review/exports/case_00/slicer.ctbl").is_file()


def test_labels_are_compared_with_the_reference_in_numbers_and_in_the_picture(page, workspace) -> None:
    app = page(f"workspace={workspace}")
    before = pictures(app)
    app.button_group(key="compare_kind").set_value("labels").run()
    assert not app.exception
    table = next(one.value for one in app.dataframe if "Dice" in one.value)
    assert list(table["Dice"]) == ["1.000", "1.000"]
    assert pictures(app) != before


def test_another_examination_is_shown_beside_it(page, workspace) -> None:
    app = page(f"workspace={workspace}")
    app.button_group(key="compare_kind").set_value("case").run()
    assert not app.exception
    assert len(pictures(app)) == 2
    assert any("not aligned" in one.value for one in app.warning)
    assert any("Change" in one.value for one in app.dataframe)
    toggle = next(one for one in app.toggle if one.label == "Align the two")
    toggle.set_value(True).run()
    assert not app.exception
    said = [one.value for one in (*app.caption, *app.error)]
    assert any("is turned by" in one or "could not be aligned" in one for one in said)


@pytest.mark.parametrize("failed", [None, "is_faithful", "is_decided"])
def test_an_explanation_is_shown_with_the_verdict_whether_to_believe_it(failed: str | None, page, workspace) -> None:
    folder = workspace / "review/explanations/1"
    source = open_source(SourceSettings(workspace=workspace))
    one = open_case(source.cases[0], source.cache)
    heat = np.zeros(one.grid.shape, np.float32)
    heat[5:9, 5:9, 5:9] = 1
    write_image(folder / "map.nii.gz", heat, one.grid)
    passed = {"depends_on_weights": True, "is_faithful": True, "is_decided": True}
    sane = {
        **{check: check != failed for check in passed},
        "verdict": "Do not believe it." if failed else "It does.",
    }
    Explanation(
        case="case_00", label="ball", method="hires_cam", layer="encoder.stages.3", layer_choice="auto", component=2,
        configuration="3d_fullres", fold=0, region_voxels=9, score=1, largest=1, is_blank=False, share_in_region=0.5,
        share_by_chance=0.1, sanity=sane,
    ).save(folder / "explanation.json")  # fmt: skip
    app = page(f"workspace={workspace}")
    before = pictures(app)
    app.selectbox(key="explained_case_00").set_value(1).run()
    assert not app.exception
    words = "1. ball · part 2 by size · Activation map (HiResCAM) · deep layer"
    assert app.selectbox(key="explained_case_00").options == ["no explanation", words]
    assert f"Map: {words}" in [one.value.replace("\\", "") for one in app.caption]
    assert not any("encoder" in one.value for one in (*app.caption, *app.markdown, *app.success, *app.warning))
    shown = app.warning if failed else app.success
    assert [one.value.replace("\\", "") for one in shown] == [sane["verdict"]]
    assert pictures(app) != before


def test_a_map_of_doubt_has_a_range_and_a_legend(page, tmp_path) -> None:
    from medseg.cli import main

    from tiny import write_tiny_dataset, write_untrained_model

    write_tiny_dataset(tmp_path / "data", 1)
    model = write_untrained_model(tmp_path / "M")
    other = write_untrained_model(tmp_path / "N", 1)
    (model / "3d_fullres/fold_1").mkdir(parents=True)
    (other / "3d_fullres/fold_0/weights.safetensors").rename(model / "3d_fullres/fold_1/weights.safetensors")
    words = [f"input={tmp_path / 'data/images'}", f"output={tmp_path / 'out'}", f"model={model}"]
    assert main(["predict", *words, "uncertainty=ensemble", "picture=false"]) == 0
    app = page(f"input={tmp_path / 'out'}")
    assert not app.exception
    before = pictures(app)
    app.selectbox(key="map").set_value("entropy").run()
    assert not app.exception
    assert pictures(app) != before
    upper = float(app.slider(key="up_to_entropy").max)
    app.slider(key="up_to_entropy").set_value(upper / 2).run()
    assert f"{upper / 2:.3f}" in [one.value for one in app.caption]
    assert "Dice?" in app.dataframe[0].value


def test_a_job_is_queued_shown_and_cancelled_and_a_failed_one_says_why(page, workspace, tmp_path, monkeypatch) -> None:
    sleeper = tmp_path / "python"
    sleeper.write_text(f"#!{sys.executable}\nimport time\nprint('Tiles: 1/4', flush=True)\ntime.sleep(600)\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr("medseg.review.jobs.sys.executable", str(sleeper))
    app = page(f"workspace={workspace}").switch_page("running.py").run()
    assert not app.exception
    app.button(key="run_start").click().run()
    until = time.monotonic() + 60
    while not app.get("progress") and time.monotonic() < until:
        time.sleep(0.1)
        app.run()
    app.button(key="cancel_1_runs").click().run()
    assert any("cancelled" in one.value for one in app.markdown)
    monkeypatch.setattr("medseg.review.jobs.sys.executable", "/nowhere/python")
    app.button(key="run_start").click().run()
    until = time.monotonic() + 60
    while not app.error and time.monotonic() < until:
        time.sleep(0.1)
        app.run()
    assert any("nowhere" in one.value for one in app.error)
    assert not app.exception


def test_the_memory_of_a_run_is_told_before_it_is_asked_for(page, workspace, tmp_path, monkeypatch) -> None:
    teller = tmp_path / "python"
    said = "Case 'case_00' needs up to about 0.7 GB of memory beside the program and its networks."
    teller.write_text(f"#!{sys.executable}\nprint({said!r})\n")
    teller.chmod(0o755)
    monkeypatch.setattr("medseg.review.estimates.sys.executable", str(teller))
    app = page(f"workspace={workspace}").switch_page("running.py").run()
    until = time.monotonic() + 60
    while any("Estimating" in one.value for one in app.caption) and time.monotonic() < until:
        time.sleep(0.1)
        app.run()
    assert any("0\\.7 GB of memory" in one.value for one in app.caption)
    assert not app.exception


def test_a_case_that_is_opened_is_one_line_of_the_log_however_much_is_looked_at(page, workspace) -> None:
    import json

    app = page(f"workspace={workspace}")
    app.slider(key="slice_axial").set_value(3).run()
    app.button(key="case_case_01").click().run()
    app.button_group(key="compare_kind").set_value("case").run()
    lines = [json.loads(line) for line in (workspace / "review/audit.jsonl").read_text().splitlines()]
    told = [(line["what"], line["user"], line["case"], line["where"]) for line in lines]
    opened = ("case opened", "local")
    assert told == [
        (*opened, "case_00", "reading"),
        (*opened, "case_01", "reading"),
        (*opened, "case_00", "beside"),
    ]


def test_a_case_is_not_shown_where_that_can_not_be_logged(page, workspace, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    app = page(f"workspace={workspace}", f"audit={tmp_path / 'file' / 'audit.jsonl'}")
    assert any("could not be written" in one.value.replace("\\", "") for one in app.error)
    assert not pictures(app)


def test_without_a_model_the_page_says_how_to_get_one(page, tmp_path) -> None:
    write_patient(tmp_path / "in", patient())
    app = page(f"input={tmp_path / 'in'}").switch_page("running.py").run()
    assert not app.exception
    assert any("No model is at hand" in one.value for one in app.info)


def test_the_accepted_cases_become_a_dataset_on_the_page_of_reviews(page, workspace, tmp_path) -> None:
    app = page(f"workspace={workspace}").switch_page("records.py").run()
    assert any("Nobody has reviewed" in one.value for one in app.info)
    app = page(f"workspace={workspace}")
    app.text_input(key="reviewer").set_value("Dr X").run()
    app.button_group(key="verdict_case_00").set_value("accepted")
    next(one for one in app.button if one.label == "Save review").click().run()
    app.switch_page("records.py").run()
    table = app.dataframe[0].value
    assert [*table["Case"], *table["Verdict"], *table["Reviewer"]] == ["case_00", "accepted", "Dr X"]
    assert table["When"][0].endswith(" UTC")
    app.button(key="export_dataset").click().run()
    assert not app.exception and not app.error
    assert (workspace / "review/dataset/dataset.yaml").is_file()
    assert len(ReviewLog(workspace / "review/reviews.sqlite").all()) == 1


def test_the_guide_shows_every_chapter(page, workspace) -> None:
    app = page(f"workspace={workspace}").switch_page("guide.py").run()
    assert not app.exception
    assert len(app.markdown) == 6
