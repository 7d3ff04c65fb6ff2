"""Structures are told by standard codes that exist."""

import pytest
from pydicom.sr._concepts_dict import concepts

from medseg.dicom.codes import SYNONYMS, meaning_of


@pytest.mark.parametrize(
    ("name", "kind", "side", "category"),
    [
        ("liver", "Liver", None, "Anatomical Structure"),
        ("left kidney", "Kidney", "Left", "Anatomical Structure"),
        ("kidney_right", "Kidney", "Right", "Anatomical Structure"),
        ("left ventricle", "Left ventricle", None, "Anatomical Structure"),
        ("Lungs", "Lung", None, "Anatomical Structure"),
        ("SmallBowel", "Small intestine", None, "Anatomical Structure"),
        ("oedema", "Edema", None, "Morphologically Abnormal Structure"),
        ("tumour core", "Neoplasm", None, "Morphologically Abnormal Structure"),
        ("Anterior", "Tissue", None, "Tissue"),
    ],
)
def test_a_name_is_found_in_the_standard(name, kind, side, category):
    meaning = meaning_of(name, None)
    assert (meaning.kind.meaning, meaning.side and meaning.side.meaning, meaning.category.meaning) == (
        kind,
        side,
        category,
    )
    assert meaning.known == (kind != "Tissue")


def test_the_code_of_the_label_file_goes_before_the_name():
    assert meaning_of("liver", "52988006").kind.meaning == "Lesion"
    assert meaning_of("left kidney", "18639004").kind.meaning == "left kidney"  # not in DICOM's dictionary


def test_every_synonym_names_a_code_that_the_dictionary_has():
    assert [keyword for keyword in SYNONYMS.values() if keyword not in concepts["SCT"]] == []
