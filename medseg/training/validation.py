"""The held-out Cases of a fold, predicted whole on their own grid and scored.

This, not the Dice of patches, is what a training is judged by.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from medseg.cases.case import Case, read_case_labels
from medseg.cases.labels import LabelTable
from medseg.evaluation.pictures import draw_case
from medseg.evaluation.scores import CaseScores, Scores, rank_cases, score_case, summarise, write_csv
from medseg.images.formats import read_image, read_labels, write_labels
from medseg.inference.predict import predict_image
from medseg.preprocessing.store import open_prepared
from medseg.progress import Progress
from medseg.training.recipe import Recipe


def validate_fold(
    recipe: Recipe,
    network: nn.Module,
    cases: Sequence[Case],
    table: LabelTable,
    prepared: Path,
    folder: Path,
    device: torch.device,
    progress: Progress,
) -> Scores:
    """Predict and score every held-out Case; predictions, scores and pictures go to ``folder``/validation.

    Returns the Scores, also written as ``scores.json`` and ``scores.csv``, with pictures of the best and worst Case.
    """
    output = folder / "validation"
    network.eval().to(device)
    scored: list[CaseScores] = []
    progress.start("Validating", len(cases))
    for case in cases:
        stored = open_prepared(prepared, case.name, recipe.is_cascade)
        prediction = predict_image(
            stored.network_input(recipe.structures_before),
            stored.grid,
            [network],
            recipe.configuration,
            labels=table,
            device=device,
            mirror_axes=recipe.mirror_axes,
            case=case.name,
        )
        image = read_image(case.images[0])
        truth = read_case_labels(case, table, image)
        scored.append(score_case(prediction, truth.array, truth.spacing, table, case=case.name))
        write_labels(output / f"{case.name}.nii.gz", table.to_values(prediction), truth)
        progress.advance()
    progress.finish()
    scores = summarise(scored)
    scores.save(folder / "scores.json")
    write_csv(folder / "scores.csv", scores)
    table.save(output / "labels.yaml")
    draw_extremes(scores, cases, table, folder, output)
    return scores


def draw_extremes(scores: Scores, cases: Sequence[Case], table: LabelTable, folder: Path, predictions: Path) -> None:
    """``best_case.png`` and ``worst_case.png`` in ``folder``: image, labels and what lies in ``predictions``."""
    ranked = rank_cases(scores)
    known = {case.name: case for case in cases}
    for name, chosen in (("worst_case", ranked[:1]), ("best_case", ranked[-1:])):
        for case_scores in chosen:
            case = known[case_scores.case]
            image = read_image(case.images[0])
            truth = read_case_labels(case, table, image)
            prediction = table.to_indices(read_labels(predictions / f"{case.name}.nii.gz").array)
            affine = image.affine if image.orientation_known else None
            picture = folder / f"{name}.png"
            draw_case(picture, image.array[0], truth.array, prediction, image.spacing, case_scores, table, affine)
