"""What the qualities of ``medseg predict`` lose in Dice and win in time, on an nnU-Net model and the cases it held out.

    python tests/benchmarks/quality.py MODEL_FOLDER DATASET_FOLDER [cases]

MODEL_FOLDER is a trained nnU-Net v2 model (its fold 0 is used), DATASET_FOLDER the Decathlon or nnU-Net folder it was
trained on. Every case is predicted in every way before the next one; seconds are of the processor, for reading,
preparing, computing and restoring, and the ratio is what to look at.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from medseg.cases.case import read_case_labels
from medseg.cases.folds import make_folds
from medseg.cases.formats import read_dataset
from medseg.evaluation.comparison import target_dice
from medseg.inference.bundle import open_model
from medseg.inference.nnunet_model import import_nnunet
from medseg.inference.options import Options
from medseg.inference.predict import predict_case
from medseg.progress import Silent


def main(model_folder: Path, dataset_folder: Path, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        import_nnunet([model_folder], Path(folder) / "bundle")
        model = open_model(Path(folder) / "bundle").load(folds=[0])
    dataset = read_dataset(dataset_folder)
    held_out = make_folds(dataset).folds[0].validation
    cases = [case for case in dataset.cases if case.name in held_out][:count]
    cpu = torch.device("cpu")
    ways = {quality: Options.of(quality, cpu) for quality in ("fast", "balanced", "best")}
    ways["compat=nnunet"] = Options.of("best", cpu, combine="nnunet")
    dice: dict[str, list[np.ndarray]] = {way: [] for way in ways}
    seconds = dict.fromkeys(ways, 0.0)
    predict_case(cases[0], model, ways["fast"], Silent())  # libraries load what they need
    for case in cases:
        for way, options in ways.items():
            started = time.process_time()
            found = predict_case(case, model, options, Silent())
            seconds[way] += time.process_time() - started
            truth = read_case_labels(case, model.labels, found.image).array
            dice[way].append(np.asarray(target_dice(found.indices, truth, model.labels), dtype=float))
    best = np.nanmean(dice["best"])
    print(
        f"{len(cases)} cases of fold 0, {len(model.labels) - 1} structures, one CPU thread: {torch.get_num_threads()}"
    )
    for way in ways:
        mean = np.nanmean(dice[way])
        print(
            f"{way:14} Dice {mean:.4f} ({mean - best:+.4f})  {seconds[way] / len(cases):.3f} s/case  "
            f"{seconds['best'] / seconds[way]:.1f} times as fast as best"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 10_000)
