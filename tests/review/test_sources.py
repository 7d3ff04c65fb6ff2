"""What there is to look at in a workspace, a folder of images, a dataset, and what predict wrote."""

from pathlib import Path

import pytest
from tiny_review import patient, write_patient, write_read_workspace

from medseg.cli import main
from medseg.errors import DatasetError, MedsegError
from medseg.images.formats import read_labels
from medseg.review.cache import open_case
from medseg.review.sources import SourceSettings, open_source

from tiny import TABLE, write_tiny_dataset, write_untrained_model


def test_a_workspace_shows_its_cases_with_predictions_and_reference(tmp_path: Path) -> None:
    source = open_source(SourceSettings(workspace=write_read_workspace(tmp_path)))
    assert [case.name for case in source.cases] == [f"case_{number:02d}" for number in range(5)]
    first, last = source.cases[0], source.cases[-1]
    assert [one.name for one in first.findings] == ["3d_fullres, fold 0"]
    assert first.reference is not None and last.findings == ()
    assert source.state == (tmp_path / "W" / "review").resolve()
    one = open_case(first, source.cache)
    assert (one.labels(first.findings[0]) == one.labels(first.reference)).all()


def test_a_folder_of_images_needs_nothing_else(tmp_path: Path) -> None:
    write_patient(tmp_path / "in", patient(), "one")
    source = open_source(SourceSettings(input=tmp_path / "in"))
    assert [case.name for case in source.cases] == ["one"]
    assert source.cases[0].findings == ()


def test_channels_of_a_case_belong_together(tmp_path: Path) -> None:
    for name in ("a_0000", "a_0001", "b_0000", "b_0001"):
        write_patient(tmp_path, patient(), name)
    source = open_source(SourceSettings(input=tmp_path))
    assert [(case.name, len(case.images), len(case.channels)) for case in source.cases] == [("a", 2, 2), ("b", 2, 2)]
    assert open_case(source.cases[0], source.cache).image.shape[0] == 2


def test_a_dataset_folder_shows_its_reference(tmp_path: Path) -> None:
    write_tiny_dataset(tmp_path, 2)
    source = open_source(SourceSettings(input=tmp_path))
    assert [case.reference is not None for case in source.cases] == [True, True]


def test_what_predict_wrote_is_shown_with_its_doubts_and_laid_beside_another_model(tmp_path: Path, capsys) -> None:
    write_tiny_dataset(tmp_path / "data", 2)
    for seed in (0, 1):
        model = write_untrained_model(tmp_path / f"M{seed}", seed)
        words = [f"input={tmp_path / 'data/images'}", f"output={tmp_path / f'out{seed}'}", f"model={model}"]
        assert main(["predict", *words, "picture=true"]) == 0
    source = open_source(SourceSettings(input=tmp_path / "out0", predictions=(tmp_path / "out1",)))
    assert [case.name for case in source.cases] == ["0", "1"]
    assert [one.name for one in source.cases[0].findings] == ["out1", "out0"]
    assert source.model == (tmp_path / "M0").resolve()
    one = open_case(source.cases[0], source.cache)
    in_file = read_labels(tmp_path / "out0" / "0.nii.gz").array
    assert (one.turn.to_file(one.labels(source.cases[0].findings[1])) == TABLE.to_indices(in_file)).all()


def test_a_folder_of_labels_that_nothing_names_is_one_sentence(tmp_path: Path) -> None:
    write_patient(tmp_path / "in", patient())
    with pytest.raises(DatasetError, match=r"no labels\.yaml"):
        open_source(SourceSettings(input=tmp_path / "in", predictions=(tmp_path / "in/labels",)))


@pytest.mark.parametrize("what", ["nothing", "file", "empty", "both", "no_workspace"])
def test_what_can_not_be_looked_at_is_one_sentence(what: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    settings = {
        "nothing": SourceSettings(input=tmp_path / "nothing"),
        "file": SourceSettings(input=tmp_path / "file"),
        "empty": SourceSettings(input=tmp_path / "empty"),
        "both": SourceSettings(input=tmp_path, workspace=tmp_path),
        "no_workspace": SourceSettings(workspace=tmp_path / "empty"),
    }
    with pytest.raises(MedsegError):
        open_source(settings[what])


def test_a_case_that_is_not_there_is_a_sentence_whatever_its_name(tmp_path: Path) -> None:
    write_patient(tmp_path, patient())
    source = open_source(SourceSettings(input=tmp_path))
    for name in ("../patient", "patient/../patient", "", "patient\0"):
        with pytest.raises(DatasetError, match="no case"):
            source.case(name)


def test_an_unusual_image_stands_first_with_its_warning_and_a_guarantee_with_its_rate(tmp_path: Path) -> None:
    from medseg.review.worklist import worklist
    from medseg.uncertainty.summary import (
        CaseUncertainty,
        Guaranteed,
        StructureEstimate,
        StructureUncertainty,
        UncertaintySummary,
    )

    for name in ("a", "b"):
        write_patient(tmp_path / "in", patient(), name)
    folder = tmp_path / "in" / "labels"
    TABLE.save(folder / "labels.yaml")
    estimate = StructureEstimate(
        name="ball", prediction_ml=1, expected_ml=1, low_ml=0.1, high_ml=2, presence=1, expected_dice=0.8
    )
    bound = Guaranteed(volume_low_ml=0.5, volume_high_ml=1.5, dice_low=None)
    structure = StructureUncertainty(estimate=estimate, guaranteed=bound)
    doubts = [
        CaseUncertainty(case="a", review_score=0.9, structures=(structure,)),
        CaseUncertainty(case="b", review_score=0.1, structures=(structure,), warning="Unlike the training images."),
    ]
    UncertaintySummary(source="tta", is_calibrated=True, rate=0.9, assumption="x", cases=tuple(doubts)).save(
        folder / "uncertainty.json"
    )
    source = open_source(SourceSettings(input=tmp_path / "in", predictions=(folder,)))
    rows = worklist(source.cases, {})
    assert [row.case.name for row in rows] == ["b", "a"]
    (finding,) = rows[0].case.findings
    assert finding.remarks == ("Unlike the training images.",)
    assert finding.intervals["ball"].rate == 0.9
