"""Make nnunet_plans.json.gz: what the official planners (nnunetv2==2.8.1) plan for fingerprints of every kind.

Run in an environment of its own that has nnunetv2: ``python make_nnunet_plans.py``. Takes a few minutes.
"""

import contextlib
import gzip
import io
import json
import os
import random
import tempfile
from pathlib import Path

ROOT = Path(tempfile.mkdtemp())
for name in ("raw", "preprocessed", "results"):
    os.environ[f"nnUNet_{name}"] = str(ROOT / name)
    (ROOT / name).mkdir()
import torch  # noqa: E402 (nnU-Net reads the variables when it is imported)
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner  # noqa: E402
from nnunetv2.experiment_planning.experiment_planners.residual_unets import (  # noqa: E402
    residual_encoder_unet_planners as residual,
)

PLANNERS = {
    "nnunet": ExperimentPlanner,
    "nnunet_resenc_m": residual.nnUNetPlannerResEncM,
    "nnunet_resenc_l": residual.nnUNetPlannerResEncL,
    "nnunet_resenc_xl": residual.nnUNetPlannerResEncXL,
}
NAME = "Dataset001_Random"
KEPT = ("patch_size", "batch_size", "median_image_size_in_voxels", "spacing", "batch_dice")

IN_PLANE = (0.35, 0.5, 0.62, 0.78, 0.9, 1.0, 1.25, 1.5, 2.0)
THICKNESS = (0.4, 0.7, 1.0, 1.5, 2.2, 3.0, 3.6, 5.0, 8.0)


def random_fingerprint(draw: random.Random) -> dict:
    """Cases that vary around a spacing and a size, the coarse axis anywhere; sometimes single slices."""
    plane = draw.choice(IN_PLANE)
    thick = draw.choice(THICKNESS)
    spacing = [thick, plane, plane * draw.choice((1, 1, 1, 1.2))]
    shape = [draw.choice((1, 9, 18, 35, 60, 110, 250, 480)), *(draw.choice((40, 90, 160, 210, 320, 512)) for _ in "yx")]
    order = draw.choice(([0, 1, 2], [0, 1, 2], [1, 2, 0], [2, 0, 1])) if shape[0] > 1 else [0, 1, 2]
    if shape[0] == 1:
        spacing[0] = 10.0
    cases = []
    for _ in range(draw.choice((3, 8, 20, 31))):
        near = [s * draw.choice((0.8, 1, 1, 1.1, 2.0 if s == thick else 1)) for s in spacing]
        size = [max(1, round(n * draw.uniform(0.8, 1.2))) if n > 1 else 1 for n in shape]
        cases.append(([near[a] for a in order], [size[a] for a in order]))
    return {
        "spacings": [c[0] for c in cases],
        "shapes_after_crop": [c[1] for c in cases],
        "classes": draw.choice((2, 3, 5, 15)),
        "foreground_intensity_properties_per_channel": {"0": {}},
        "median_relative_size_after_cropping": draw.choice((0.5, 0.7499, 0.75, 1.0)),
        "channel": draw.choice(("CT", "MRI", "noNorm", "rescale_to_0_1", "rgb_to_0_1", "zscore", "ct")),
    }


KINDS = ("isotropic", "anisotropic", "single_slice", "thin_slab", "huge", "tiny", "several_channels", "odd_axes")
PUBLISHED = (
    ((1, 1, 1), (36, 50, 35), 3, 260),
    ((3.6, 0.62, 0.62), (20, 320, 319), 3, 32),
    ((5, 1.56, 1.56), (18, 237, 208), 4, 200),
    ((1.37, 1.25, 1.25), (115, 320, 232), 2, 20),
    ((1, 0.7676, 0.7676), (482, 512, 512), 3, 131),
)


def shaped_fingerprint(kind: str, draw: random.Random) -> dict:
    """Cases of one kind, each of its own spacing and size about the kind's, axes in any order."""
    fine = draw.choice(IN_PLANE)
    ratio, shape = 1.0, [draw.choice((64, 100, 150, 220)) for _ in range(3)]
    if kind == "anisotropic":
        ratio, shape[0] = draw.choice((2.0, 2.5, 3.0, 3.1, 4.0, 6.0, 8.0, 12.0)), draw.choice((12, 20, 40, 90, 160))
    elif kind == "single_slice":
        ratio, shape = 10.0, [1, draw.choice((48, 256, 700, 1500)), draw.choice((64, 256, 900))]
    elif kind == "thin_slab":
        ratio, shape = draw.choice((1.0, 3.0, 5.0)), [draw.choice((2, 3, 5, 7)), draw.choice((96, 300)), 256]
    elif kind == "huge":
        ratio, shape = draw.choice((1.0, 1.5, 3.5)), [draw.choice((400, 800, 1200)), 512, draw.choice((512, 768))]
    elif kind == "tiny":
        shape = [draw.choice((9, 12, 17, 30)) for _ in range(3)]
    elif kind == "odd_axes":
        ratio = draw.choice((1.2, 3.3, 5.0))
    order = draw.choice(([0, 1, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0], [0, 2, 1], [1, 0, 2]))
    if kind == "single_slice":
        order = [0, 1, 2]
    cases = []
    for _ in range(draw.choice((1, 4, 10))):
        spacing = [round(s * draw.choice((0.7, 1, 1, 1.3)), 4) for s in (fine * ratio, fine, fine)]
        size = [max(1, round(n * draw.uniform(0.75, 1.3))) if n > 1 else 1 for n in shape]
        cases.append(([spacing[a] for a in order], [size[a] for a in order]))
    channels = draw.choice((2, 3, 4)) if kind == "several_channels" else 1
    return {
        "spacings": [c[0] for c in cases],
        "shapes_after_crop": [c[1] for c in cases],
        "classes": draw.randint(2, 15),
        "foreground_intensity_properties_per_channel": {str(i): {} for i in range(channels)},
        "median_relative_size_after_cropping": draw.choice((0.5, 0.7499, 0.75, 1.0)),
        "channel": draw.choice(("CT", "MRI")),
    }


def published_fingerprint(spacing: tuple, shape: tuple, classes: int, cases: int) -> dict:
    """A data set of which only the medians are known: every case alike."""
    return {
        "spacings": [list(spacing)] * cases,
        "shapes_after_crop": [list(shape)] * cases,
        "classes": classes,
        "foreground_intensity_properties_per_channel": {"0": {}},
        "median_relative_size_after_cropping": 1.0,
        "channel": "MRI",
    }


def official_plan(fingerprint: dict, planner: type) -> dict:
    """What nnU-Net writes into its plans file, the parts that medseg also plans."""
    raw, prepared = ROOT / "raw" / NAME, ROOT / "preprocessed" / NAME
    for folder in (raw / "imagesTr", raw / "labelsTr", prepared):
        folder.mkdir(parents=True, exist_ok=True)
    dataset = {
        "channel_names": dict.fromkeys(
            fingerprint["foreground_intensity_properties_per_channel"], fingerprint["channel"]
        ),
        "labels": {"background": 0} | {f"s{i}": i for i in range(1, fingerprint["classes"])},
        "numTraining": len(fingerprint["spacings"]),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(dataset))
    (prepared / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    for old in prepared.glob("*lans*.json"):
        old.unlink()
    # On the meta device the planner's trial networks take no time and no memory.
    with contextlib.redirect_stdout(io.StringIO()), torch.device("meta"):
        instance = planner(NAME)
        instance.determine_reader_writer = lambda: type("Reader", (), {})
        plans = json.loads(json.dumps(instance.plan_experiment()))
    configurations = {}
    for name, plan in plans["configurations"].items():
        if "inherits_from" in plan:
            configurations[name] = {"previous_stage": plan["previous_stage"]}
            continue
        network = plan["architecture"]["arch_kwargs"]
        configurations[name] = {key: plan[key] for key in KEPT} | {
            "features": network["features_per_stage"],
            "strides": network["strides"],
            "kernels": network["kernel_sizes"],
            "encoder": network.get("n_conv_per_stage") or network["n_blocks_per_stage"],
            "decoder": network["n_conv_per_stage_decoder"],
            "normalisation": plan["normalization_schemes"],
            "masked": plan["use_mask_for_norm"],
        }
    return {"transpose_forward": plans["transpose_forward"], "configurations": configurations}


def main() -> None:
    draw = random.Random(20)
    fingerprints = [random_fingerprint(draw) for _ in range(40)]
    fingerprints += [shaped_fingerprint(kind, draw) for kind in KINDS for _ in range(8)]
    fingerprints += [published_fingerprint(*vector) for vector in PUBLISHED]
    found = []
    for i, fingerprint in enumerate(fingerprints):
        plans = {preset: official_plan(fingerprint, planner) for preset, planner in PLANNERS.items()}
        found.append({"fingerprint": fingerprint, "plans": plans})
        shape, spacing = fingerprint["shapes_after_crop"][0], fingerprint["spacings"][0]
        print(i, spacing, shape, list(plans["nnunet"]["configurations"]), flush=True)
    lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in found)
    path = Path(__file__).parent / "nnunet_plans.json.gz"
    path.write_bytes(gzip.compress(f"[\n{lines}\n]\n".encode(), mtime=0))


if __name__ == "__main__":
    main()
