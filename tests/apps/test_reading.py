"""The page where a case is read, in every state it can be in."""

import re
from pathlib import Path

import pytest
from tiny_review import patient, write_patient, write_read_workspace

from medseg.review.records import ReviewLog

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workspace(tmp_path: Path) -> str:
    return f"workspace={write_read_workspace(tmp_path)}"


def pictures(app) -> list[str]:
    """What the browser is sent of each plane."""
    return [one.proto.json for one in app.get("bidi_component") if one.proto.json]


def button(app, label: str):
    return next(one for one in app.button if one.label.startswith(label))


def test_the_first_case_opens_with_its_planes_its_structures_and_their_numbers(page, workspace) -> None:
    app = page(workspace)
    assert not app.exception and not app.error
    assert [one.label for one in app.slider if "/" in one.label] == [
        "Axial 12 / 20",
        "Coronal 17 / 24",
        "Sagittal 9 / 16",
    ]
    assert [one.label for one in app.checkbox] == ["ball", "box"]
    assert list(app.dataframe[0].value["Structure"]) == ["ball", "box"]
    assert len(pictures(app)) == 3
    assert all("data:image/jpeg;base64," in one for one in pictures(app))


def test_a_slider_shows_another_slice_and_moves_the_crosshair_of_the_others(page, workspace) -> None:
    app = page(workspace)
    before = pictures(app)
    app.slider(key="slice_axial").set_value(3).run()
    assert app.session_state["medseg_place"] == (2, 16, 8)
    after = pictures(app)
    assert all(one != other for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("checkbox", "shown_ball", False),
        ("slider", "opacity", 0.1),
        ("toggle", "outline", True),
        ("toggle", "cross", False),
        ("color_picker", "color_ball", "#ff0000"),
        ("selectbox", "window", "full"),
        ("select_slider", "zoom", 4),
    ],
)
def test_every_control_changes_the_picture(kind: str, key: str, value: object, page, workspace) -> None:
    app = page(workspace)
    app.slider(key="slice_axial").set_value(8).run()
    before = pictures(app)
    getattr(app, kind)(key=key).set_value(value).run()
    assert not app.exception
    assert pictures(app) != before


def test_level_and_width_can_be_set_by_hand(page, workspace) -> None:
    app = page(workspace)
    app.selectbox(key="window").set_value("manual").run()
    before = pictures(app)[0]
    app.number_input(key="width").set_value(1000.0).run()
    assert pictures(app)[0] != before


def test_a_case_without_a_prediction_shows_its_reference_and_one_without_anything_says_so(page, tmp_path) -> None:
    write_patient(tmp_path / "in", patient())
    app = page(f"input={tmp_path / 'in'}")
    assert not app.exception
    assert [one.value for one in app.info] == ["Nothing has been segmented in this case yet."]
    assert not app.dataframe


def test_accepting_a_case_writes_one_review_and_marks_it_in_the_worklist(page, workspace, tmp_path) -> None:
    app = page(workspace)
    app.text_input(key="reviewer").set_value("Dr X").run()
    app.button_group(key="verdict_case_00").set_value("accepted")
    app.text_area(key="comment_case_00").set_value("<script>alert(1)</script> fine")
    button(app, "Save review").click().run()
    assert not app.exception and not app.error
    (review,) = ReviewLog(tmp_path / "W/review/reviews.sqlite").all()
    assert (review.case, review.status, review.reviewer, review.difficulty) == ("case_00", "accepted", "Dr X", "medium")
    assert "<script>alert(1)</script> fine" in [one.value for one in app.text]
    assert not any("script" in one.value for one in app.markdown)
    assert button(app, "case\\_00").proto.icon == ":material/check_circle:"


@pytest.mark.parametrize(
    ("status", "name", "told"), [(None, "Dr X", "Choose accept"), ("rejected", "", "name of its reviewer")]
)
def test_a_review_that_lacks_something_is_not_written(status, name, told, page, workspace, tmp_path) -> None:
    app = page(workspace)
    app.text_input(key="reviewer").set_value(name).run()
    if status:
        app.button_group(key="verdict_case_00").set_value(status)
    button(app, "Save review").click().run()
    assert any(told in re.sub(r"\\", "", one.value) for one in (*app.error, *app.warning))
    assert ReviewLog(tmp_path / "W/review/reviews.sqlite").all() == []


def test_search_status_and_next_lead_through_the_worklist(page, workspace) -> None:
    app = page(workspace)
    button(app, "Next").click().run()
    assert app.session_state["medseg_case"] == "case_01"
    app.text_input(key="search").set_value("case_03").run()
    assert [one.label for one in app.button if one.label.startswith("case")] == ["case\\_03"]
    app.text_input(key="search").set_value("").run()
    app.selectbox(key="status").set_value("accepted").run()
    assert not [one for one in app.button if one.label.startswith("case")]
    assert not app.exception


@pytest.mark.parametrize("words", [["input=/nowhere"], ["colour=red"], ["input=a", "input=b"]])
def test_a_mistake_in_the_words_is_a_sentence_and_no_traceback(words, page) -> None:
    app = page(*words)
    assert not app.exception
    assert len(app.error) == 1


def test_an_image_that_can_not_be_read_is_a_sentence(page, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/cut.nii.gz").write_bytes(b"\x1f\x8b no image")
    app = page(f"input={tmp_path / 'in'}")
    assert not app.exception
    assert len(app.error) == 1


def test_a_file_whose_name_could_be_a_path_or_markup_never_becomes_one(page, tmp_path) -> None:
    write_patient(tmp_path / "in", patient(), "good")
    (tmp_path / "in/<img src=x>.nii.gz").write_bytes((tmp_path / "in/good.nii.gz").read_bytes())
    app = page(f"input={tmp_path / 'in'}")
    assert not app.exception
    assert not any("<img" in one.label for one in app.button)


def test_a_script_in_a_series_description_is_shown_as_text(page, tmp_path) -> None:
    import numpy as np

    from tiny_dicom import make_series, save

    words = "<script>alert(1)</script> ![x](http://evil/x.png)"
    voxels = np.random.default_rng(0).normal(1000, 100, (6, 12, 10)).astype(np.int16)
    save(make_series(voxels, name="s", SeriesDescription=words[:64]), tmp_path / "in")
    app = page(f"input={tmp_path / 'in'}", f"state={tmp_path / 'state'}")
    assert not app.exception
    assert [one.value for one in app.text] == [f"Series: {words[:64]}"]
    assert not any("script" in one.value or "evil" in one.value for one in (*app.markdown, *app.caption, *app.info))
