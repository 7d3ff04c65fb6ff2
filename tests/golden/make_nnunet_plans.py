"""Make nnunet_plans.json: what the official planner (nnunetv2==2.8.1) plans for random fingerprints.

Run in an environment of its own that has nnunetv2: ``python make_nnunet_plans.py``. Takes a few minutes.
"""

import contextlib
import io
import json
import os
import random
import sys
import tempfile
from pathlib import Path

ROOT = Path(tempfile.mkdtemp())
for name in ("raw", "preprocessed", "results"):
    os.environ[f"nnUNet_{name}"] = str(ROOT / name)
    (ROOT / name).mkdir()
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


def official_plan(fingerprint: dict, planner: type) -> dict:
    """What nnU-Net writes into its plans file, the parts that medseg also plans."""
    raw, prepared = ROOT / "raw" / NAME, ROOT / "preprocessed" / NAME
    for folder in (raw / "imagesTr", raw / "labelsTr", prepared):
        folder.mkdir(parents=True, exist_ok=True)
    dataset = {
        "channel_names": {"0": fingerprint["channel"]},
        "labels": {"background": 0} | {f"s{i}": i for i in range(1, fingerprint["classes"])},
        "numTraining": len(fingerprint["spacings"]),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(dataset))
    (prepared / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    for old in prepared.glob("*lans*.json"):
        old.unlink()
    with contextlib.redirect_stdout(io.StringIO()):
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
            "normalisation": plan["normalization_schemes"][0],
            "masked": plan["use_mask_for_norm"][0],
        }
    return {"transpose_forward": plans["transpose_forward"], "configurations": configurations}


def main() -> None:
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    draw = random.Random(20)
    (ROOT / "raw" / NAME / "imagesTr").mkdir(parents=True)
    found = []
    for i in range(int(sys.argv[1]) if len(sys.argv) > 1 else 30):
        fingerprint = random_fingerprint(draw)
        found.append({"fingerprint": fingerprint, "plan": official_plan(fingerprint, ExperimentPlanner)})
        print(
            i,
            fingerprint["spacings"][0],
            fingerprint["shapes_after_crop"][0],
            list(found[-1]["plan"]["configurations"]),
        )
    lines = ",\n".join(json.dumps(one) for one in found)
    (Path(__file__).parent / "nnunet_plans.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
