"""A dataset small enough to train on in a second: a bright ball and a dark box in noise."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from medseg.cases.case import Case
from medseg.cases.dataset import Dataset
from medseg.cases.folds import make_folds
from medseg.cases.formats import save_dataset
from medseg.cases.labels import Label, LabelTable
from medseg.images.formats import write_image, write_labels
from medseg.images.volume import Volume
from medseg.networks.build import build_network
from medseg.networks.weights import save_weights
from medseg.paths import Workspace
from medseg.planning.plan import ChannelPlan, ConfigurationPlan, Machine, NetworkPlan, Plan, TrainingPlan
from medseg.preprocessing.grid import Grid
from medseg.preprocessing.store import PreparedRecord, sample_locations
from medseg.training.recipe import Recipe, settle_optimizer
from medseg.training.schedule import Part, Watch, planned_stretch

TABLE = LabelTable(labels=(Label(name="background", value=0), Label(name="ball", value=1), Label(name="box", value=2)))


def table_of(structures: int, **more: object) -> LabelTable:
    """A table of so many structures with the values 1, 2, ...; ``more`` are its regions and its ignore value."""
    labels = [{"name": f"structure {value}", "value": value} for value in range(1, structures + 1)]
    return LabelTable.validated({"labels": labels, **more}, "tests")


def table_named(*names: str) -> LabelTable:
    """A table of structures with these names and the values 1, 2, ..."""
    return LabelTable(labels=tuple(Label(name=name, value=value) for value, name in enumerate(names, start=1)))


def nested_regions(structures: int) -> list[dict[str, object]]:
    """Regions of which each holds the next: all structures, all but the first, ..."""
    return [
        {"name": f"region {k}", "labels": [f"structure {v}" for v in range(k, structures + 1)], "written": k}
        for k in range(1, structures + 1)
    ]


def write_tiny_dataset(folder: Path, count: int = 6, first: int = 0) -> Dataset:
    """Write ``count`` cases of 20x24x16 voxels at 1 mm and give their Dataset; another ``first`` gives other cases."""
    cases = []
    for index in range(first, first + count):
        random = np.random.default_rng(index)
        labels = np.zeros((20, 24, 16), np.uint8)
        z, y, x = np.ogrid[:20, :24, :16]
        centre = random.integers(5, 9, 3)
        labels[((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2) < 16] = 1
        labels[14:18, 15:21, 4:12] = 2
        image = random.normal(100, 10, labels.shape) + 60 * (labels == 1) - 60 * (labels == 2)
        affine = np.array([[0, 0, 1.0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
        volume = Volume(image[None].astype(np.float32), affine)
        case = Case(f"case_{index:02d}", (folder / f"images/{index}.nii.gz",), folder / f"labels/{index}.nii.gz")
        write_image(case.images[0], volume.array, volume)
        assert case.labels is not None
        write_labels(case.labels, labels, volume)
        cases.append(case)
    return Dataset("tiny", ("MR",), TABLE, tuple(cases))


def write_tiny_workspace(folder: Path, table: LabelTable = TABLE, first: int = 0, dimensions: int = 3) -> Path:
    """A planned workspace in ``folder`` / W, its images in ``folder`` / data."""
    dataset = replace(write_tiny_dataset(folder / "data", 5, first), labels=table)
    workspace = folder / "W"
    save_dataset(dataset, workspace / "dataset.yaml")
    table.save(workspace / "labels.yaml")
    make_folds(dataset).save(workspace / "folds.yaml")
    tiny_plan(dimensions).save(workspace / "plan.yaml")
    return workspace


def tiny_plan(dimensions: int = 3, batch_size: int = 2) -> Plan:
    """A plan with 4 and 8 channels and patches of 16 voxels."""
    flat = dimensions == 2
    stride, kernel = ((1, 2, 2), (1, 3, 3)) if flat else ((2, 2, 2), (3, 3, 3))
    network = NetworkPlan(
        features=(4, 8),
        strides=((1, 1, 1), stride),
        kernels=(kernel, kernel),
        encoder_convolutions=(1, 1),
        decoder_convolutions=(1,),
    )
    configuration = ConfigurationPlan(
        dimensions=2 if flat else 3,
        spacing=(1.0, 1.0, 1.0),
        median_shape=(20, 24, 16),
        patch_size=(1, 16, 16) if flat else (16, 16, 16),
        batch_size=batch_size,
        batch_dice=flat,
        network=network,
    )
    name = "2d" if flat else "3d_fullres"
    return Plan(
        dataset="tiny",
        preset="default",
        orientation="canonical",
        axis_order=(0, 1, 2),
        channels=(ChannelPlan(name="MR", normalisation="zscore"),),
        machine=Machine(device="cpu"),
        configurations={name: configuration},
        default_configuration=name,
        training=TrainingPlan(iterations=6),
        fingerprint="none",
    )


def shallow_configuration(patch, batch_size: int = 2, dimensions: int = 3) -> ConfigurationPlan:
    """Two stages of two convolutions each."""
    step = (2, 2, 2) if dimensions == 3 else (1, 2, 2)
    network = NetworkPlan(
        features=(4, 8),
        strides=((1, 1, 1), step),
        kernels=((3, 3, 3) if dimensions == 3 else (1, 3, 3),) * 2,
        encoder_convolutions=(2, 2),
        decoder_convolutions=(2,),
    )
    return ConfigurationPlan(
        dimensions=dimensions,
        spacing=(1, 1, 1),
        median_shape=patch,
        patch_size=patch,
        batch_size=batch_size,
        batch_dice=False,
        network=network,
    )


def tiny_recipe(iterations: int = 6, every: int = 2, **training: object) -> Recipe:
    """A settled recipe on four of the tiny cases, two held out."""
    plan = tiny_plan()
    optimizer = settle_optimizer(plan.training.optimizer, iterations)
    settled = plan.training.model_copy(update={"optimizer": optimizer, **training})
    watch = Watch(cases=("case_04", "case_05"), every=every)
    return Recipe(
        configuration_name="3d_fullres",
        configuration=plan.configurations["3d_fullres"],
        training=settled,
        parts=(
            Part(
                stretch=planned_stretch(settled.optimizer, iterations), watch=watch, early_stop=bool(settled.early_stop)
            ),
        ),
        fold=0,
        channels=1,
        labels=TABLE,
        plan="none",
        preparation={},
        shaping="none",
        data="none",
        training_cases=tuple(f"case_{i:02d}" for i in range(4)),
        validation_cases=("case_04", "case_05"),
        threads=1,
    )


def asymmetric_labels(shape: tuple[int, int, int] = (8, 12, 10)) -> np.ndarray:
    """Label indices 0 to 2 that no flip and no turn maps onto themselves."""
    labels = np.zeros(shape, np.uint8)
    labels[1:6, 2:8, 1:5] = 1
    labels[2:4, 8:10, 6:9] = 2
    labels[1, 2, 8] = 2
    return labels


def write_prepared(folder: Path, name: str, labels: np.ndarray, table: LabelTable, image: np.ndarray | None = None):
    """A prepared Case; by default its image holds each voxel's own number, so that a patch tells where it came from."""
    shape = labels.shape
    place = folder / name
    place.mkdir()
    if image is None:
        image = np.stack([np.arange(1, labels.size + 1).reshape(shape), np.full(shape, ord(name[0]))])
    np.save(place / "image.npy", image.astype(np.float32))
    np.save(place / "labels.npy", labels)
    np.save(place / "locations.npy", sample_locations(labels, table, name))
    grid = Grid(
        file_shape=shape,
        permutation=(0, 1, 2),
        flips=(False, False, False),
        crop_lower=(0, 0, 0),
        cropped_shape=shape,
        cropped_spacing=(1, 1, 1),
        prepared_shape=shape,
        prepared_spacing=(1, 1, 1),
    )
    PreparedRecord(
        name=name,
        files=(),
        voxel_hash="",
        shaping="0",
        grid=grid,
        label_voxels=tuple(int(n) for n in np.bincount(labels.ravel(), minlength=len(table.known_values))),
        targets=len(table.targets),
        ignores=table.ignore is not None,
    ).save(place / "case.json")


def write_untrained_model(folder: Path, seed: int = 0, table: LabelTable = TABLE) -> Path:
    """A workspace whose only fold holds random weights, as if it were trained."""
    plan, workspace = tiny_plan(), Workspace(folder)
    configuration = plan.configurations["3d_fullres"]
    plan.save(workspace.plan)
    table.save(workspace.labels)
    torch.manual_seed(seed)
    description = {
        "configuration_name": "3d_fullres",
        "configuration": configuration.model_dump(mode="json", exclude_none=True),
        "channels": 1,
        "classes": len(table),
        "mirror_axes": [],
    }
    state = build_network(configuration.network, 3, 1, len(table)).state_dict()
    save_weights(workspace.weights("3d_fullres", 0), state, description)
    return folder
