"""Which standard code stands for a structure: its own from the label file, else one found by its name.

Invents no codes. The meaning of a code and the kind of thing it is come from DICOM's own dictionary as pydicom ships
it (PS3.16; CID 7151, 7159 and 7192 list what can be segmented). A name that is not in it is written as Tissue, and
that is said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from highdicom.sr import CodedConcept
from pydicom.sr._concepts_dict import concepts  # the public ``codes`` can't be searched by value or by list
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from medseg.cases.laterality import side_of

_SEGMENTED = {4, 4030, 7151, 7152, 7153, 7154, 7155, 7160, 7165, 7166, 7192, 8134}
"""Context groups of what can be segmented: anatomy by region, tissues, substances."""
_ABNORMAL = {7159, 7194}
"""Lesion segmentation types, and morphological abnormalities."""
_TISSUES = {7165, 7166}
TISSUE = Code("85756007", "SCT", "Tissue")
ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
ABNORMALITY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_SIDES = {"left": Code("7771000", "SCT", "Left"), "right": Code("24028007", "SCT", "Right")}

SYNONYMS = {
    "adrenal": "AdrenalGland",
    "brainstem": "BrainStem",
    "cancer": "Neoplasm",
    "enhancing tumor": "Neoplasm",
    "enhancing tumour": "Neoplasm",
    "femoral head": "HeadOfFemur",
    "femur head": "HeadOfFemur",
    "gall bladder": "Gallbladder",
    "haemorrhage": "Hemorrhage",
    "ivc": "InferiorVenaCava",
    "oedema": "Edema",
    "oesophagus": "Esophagus",
    "pituitary gland": "Pituitary",
    "postcava": "InferiorVenaCava",
    "small bowel": "SmallIntestine",
    "thyroid gland": "Thyroid",
    "tumor": "Neoplasm",
    "tumor core": "Neoplasm",
    "tumour": "Neoplasm",
    "tumour core": "Neoplasm",
    "urinary bladder": "Bladder",
    "whole tumor": "Neoplasm",
    "whole tumour": "Neoplasm",
}
"""Names that people use, in lower case, and the dictionary's own keyword for what they mean."""


@dataclass(frozen=True)
class Meaning:
    """How a structure is told to other programs."""

    category: Code
    kind: Code
    side: Code | None
    known: bool
    """False where nothing better than Tissue was found."""

    def concept(self) -> CodedConcept:
        """The kind, with its side as the modifier that PS3.3 C.8.20.4 gives it."""
        concept = CodedConcept(self.kind.value, self.kind.scheme_designator, self.kind.meaning)
        if self.side is not None:
            concept.SegmentedPropertyTypeModifierCodeSequence = [CodedConcept(*self.side[:3])]
        return concept


def meaning_of(name: str, code: str | None) -> Meaning:
    """The meaning of a structure by the code of its label file, else by its name."""
    if code is not None:
        found = _by_value().get(code)
        groups = found[1] if found else frozenset()
        return Meaning(_category(groups), Code(code, "SCT", found[0] if found else name[:64]), None, True)
    side, words = side_of(name)
    keyword = None if side is None else _keyword(f"{side} {words}")  # the left ventricle is a thing of its own
    if keyword is not None:
        side = None
    keyword = keyword or _keyword(words)
    if keyword is None:
        return Meaning(TISSUE, TISSUE, None, False)
    value, (meaning, groups) = next(iter(concepts["SCT"][keyword].items()))
    return Meaning(_category(frozenset(groups)), Code(value, "SCT", meaning), _SIDES.get(side or ""), True)


def _keyword(words: str) -> str | None:
    return SYNONYMS.get(words) or _by_words().get(words) or _by_words().get(words.removesuffix("s"))


def _category(groups: frozenset[int]) -> Code:
    if groups & _ABNORMAL:
        return ABNORMALITY
    return TISSUE if groups & _TISSUES and not groups & {7192, 8134} else ANATOMY


@cache
def _by_value() -> dict[str, tuple[str, frozenset[int]]]:
    """Meaning and context groups of every SNOMED CT code that DICOM uses."""
    found: dict[str, tuple[str, frozenset[int]]] = {}
    for entry in concepts["SCT"].values():
        for value, (meaning, groups) in entry.items():
            known = found.get(value)
            found[value] = (known[0] if known else meaning, frozenset(groups) | (known[1] if known else frozenset()))
    return found


@cache
def _by_words() -> dict[str, str]:
    """The keyword of everything that can be segmented, by its words in lower case."""
    return {
        " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]+|\d+", keyword)).lower(): keyword
        for keyword, entry in concepts["SCT"].items()
        if any((_SEGMENTED | _ABNORMAL) & set(groups) for _, groups in entry.values())
    }


ARTIFICIAL_INTELLIGENCE = codes.DCM.ArtificialIntelligence
VOLUME = codes.SCT.Volume
LARGEST_DIAMETER = codes.IBSI.Maximum3DDiameterOfAMesh
MILLILITRE = Code("mL", "UCUM", "milliliter")
MILLIMETRE = Code("mm", "UCUM", "millimeter")
