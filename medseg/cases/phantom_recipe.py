"""What can be varied about phantoms: a YAML in ``datasets/``, one per imagined scanner or hospital.

Knows no geometry of organs; that is ``medseg.cases.phantom_abdomen`` and ``medseg.cases.phantom_head``.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from medseg.arrays import Spacing
from medseg.cases.labels import Label, LabelTable
from medseg.cases.phantom_abdomen import ABDOMEN
from medseg.cases.phantom_head import HEAD
from medseg.cases.regions import Region
from medseg.documents import Document, read_text
from medseg.errors import DatasetError, MedsegError
from medseg.paths import shipped, shipped_names

ANATOMIES = {"abdomen": ABDOMEN, "head": HEAD}


class PhantomRecipe(Document):
    """A part of the body, and the scanner that sees it; anatomy depends on seed, case and ``shape`` only."""

    kind: ClassVar[str] = "phantoms"
    error: ClassVar[type[MedsegError]] = DatasetError

    name: str
    """Name of the Dataset."""
    description: str = ""
    """What it is for."""
    licence: str = "Apache-2.0"
    """Of the images it makes."""
    anatomy: Literal["abdomen", "head"] = "abdomen"
    """What is drawn: organs in CT, or a brain with a tumour in two MR sequences."""
    channels: tuple[str, ...] = ("CT",)
    """Name of each channel; 'CT' makes nnU-Net's rules clip and scale Hounsfield units."""
    labels: tuple[Label, ...]
    """Which structures are labelled, by name; others are drawn but count as what is around them."""
    regions: tuple[Region, ...] = ()
    """Targets that join labels, in the order of writing."""
    ignore: int | None = None
    """The value of voxels that are not annotated."""
    annotated: float = Field(1.0, gt=0, le=1)
    """Share of the slices (of the first stored axis) that are annotated; below 1 it needs ``ignore``."""
    cases: int = Field(20, ge=1, le=9999)
    """How many to make."""
    seed: int = Field(0, ge=0)
    """Another seed gives other patients."""
    spacing: Spacing = (5.0, 4.0, 4.0)
    """mm, (z, y, x), on average."""
    spacing_variation: float = Field(0.1, ge=0, lt=1)
    """Through-plane and in-plane spacing differ from case to case by up to this fraction."""
    field_of_view_mm: tuple[float, float, float] = (240.0, 256.0, 320.0)
    """Extent in mm, (z, y, x)."""
    field_of_view_centre_z_mm: float = 0.0
    """Height of the middle of the image; positive is towards the head. Abdominal organs lie between -110 and 120 mm,
    the head between -100 and 100."""
    noise: float = Field(20.0, ge=0)
    """Standard deviation in HU or the channel's units."""
    noise_correlation_mm: float = Field(2.5, ge=0)
    """Standard deviation of the Gaussian that correlates the noise, in mm."""
    contrast: float = Field(1.0, ge=0)
    """Factor on how far organs differ from unenhanced soft tissue; less is harder."""
    lesion_contrast: float = Field(-50.0)
    """HU of the abdomen's lesion against the liver around it."""
    lesion_radius_mm: tuple[float, float] = (8.0, 14.0)
    """Smallest and largest radius of the lesion or tumour."""
    intensity_offset: float = 0.0
    """HU added to everything inside the body, as a scanner out of calibration does."""
    shape: float = Field(1.0, ge=0, le=2)
    """Factor on all variation of anatomy; 0 makes every patient alike."""
    axes: str = "SAR"
    """Directions in which the stored axes z, y, x run: S or I, A or P, R or L, in any order."""

    @model_validator(mode="after")
    def _drawable(self) -> Self:
        drawn = ANATOMIES[self.anatomy]
        unknown = sorted({label.name for label in self.labels} - {"background", *drawn.structures})
        if unknown:
            known = ", ".join(drawn.structures)
            raise ValueError(f"no phantom's {self.anatomy} has {', '.join(unknown)}; known are {known}")
        if len(self.channels) != len(drawn.around):
            raise ValueError(f"a phantom's {self.anatomy} has {len(drawn.around)} channel(s), not {len(self.channels)}")
        if self.annotated < 1 and self.ignore is None:
            raise ValueError("labels that are annotated in part need a value for the rest, such as ignore: 255")
        assert self.table  # made once here, so that it refuses what contradicts itself
        return self

    @property
    def table(self) -> LabelTable:
        """Labels, regions and ignore value."""
        return LabelTable(labels=self.labels, regions=self.regions, ignore=self.ignore)

    @field_validator("axes")
    @classmethod
    def _one_of_each(cls, axes: str) -> str:
        if sorted({"S": 0, "I": 0, "A": 1, "P": 1, "R": 2, "L": 2}.get(letter, 9) for letter in axes) != [0, 1, 2]:
            raise ValueError("expected one of S and I, one of A and P, one of R and L, such as SAR")
        return axes

    @field_validator("spacing", "field_of_view_mm", "lesion_radius_mm")
    @classmethod
    def _positive(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if min(values) <= 0:
            raise ValueError("expected numbers above 0")
        return values


def load_recipe(name_or_path: str | Path = "phantom_abdomen") -> PhantomRecipe:
    """A shipped recipe by name, or a file. Raises DatasetError naming the shipped ones when there is none such."""
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml", ".json"}:
        path = shipped("datasets") / f"{name_or_path}.yaml"
        if not path.is_file():
            known = ", ".join(shipped_names("datasets"))
            raise DatasetError(f"There is no recipe '{name_or_path}'. Known are: {known}; or name a YAML file.")
    return PhantomRecipe.load(path)


def phantoms_named(dataset: Path) -> PhantomRecipe | None:
    """The recipe that is meant by a dataset's path: a shipped one by its name, or a YAML file of that kind; else None.

    Raises DatasetError for a recipe that makes no sense.
    """
    path = dataset
    if len(dataset.parts) == 1 and not dataset.exists() and dataset.name in shipped_names("datasets"):
        path = shipped("datasets") / f"{dataset.name}.yaml"
    if path.suffix not in {".yaml", ".yml"} or not path.is_file():
        return None
    return PhantomRecipe.load(path) if read_text(path, DatasetError).split()[:2] == ["kind:", "phantoms"] else None
