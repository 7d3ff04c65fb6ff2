"""``uncertainty=`` of ``medseg predict``: what is asked of inference, and the files that come of it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medseg.commands.console import say, table
from medseg.errors import CheckpointError, SettingsError
from medseg.files import folder_written_whole, written_whole
from medseg.images.formats import write_image, write_labels

if TYPE_CHECKING:
    from medseg.inference.model import Model, Networks
    from medseg.inference.options import Options, Spread
    from medseg.inference.predict import Prediction
    from medseg.uncertainty.calibration import Calibration
    from medseg.uncertainty.case import Trust
    from medseg.uncertainty.judge import ImageJudge
    from medseg.uncertainty.summary import CaseUncertainty, Source

_SHOWN = 10


def with_uncertainty(
    options: Options, model: Model, networks: Networks, source: Source, rate: float, samples: int = 0
) -> Options:
    """The same options, with every member's disagreement watched.

    Raises SettingsError where there is only one member, whose disagreement would be none, or logits are averaged;
    CheckpointError where the calibration is that of other networks.
    """
    from medseg.uncertainty.case import MemberSpread

    every = (networks, *networks.beside)
    flips = max(len(one.mirror_axes) for one in every) if options.mirror else 0
    if options.combine != "probabilities":
        raise SettingsError("Uncertainty needs averaged probabilities. Leave combine= and compat= out.")
    if source == "dropout":
        _require_dropout(every)
    elif source in ("evidential", "learned"):
        _require_head(every, source)
    elif sum(len(one.averaged) for one in every) == 1 and (source == "ensemble" or not flips):
        remedy = "Train more folds, or take tta." if source == "ensemble" else "Allow mirror=true, or train more folds."
        raise SettingsError(f"uncertainty={source} needs several members to disagree, but there is only one. {remedy}")
    trust = trust_in(model, networks, rate)
    if trust.calibration is None:
        say(
            "The model was not calibrated: its probabilities are taken as they are. 'medseg calibrate' learns from "
            "held-out cases how far they can be trusted."
        )
    elif source in ("dropout", "snapshots"):
        say(f"Calibration and guarantees are those of the networks themselves, not of their mean over {source}.")
    return replace(options, spread=MemberSpread(source, trust, samples, networks.plan.training.seed))


def _require_head(every: Sequence[Networks], source: Literal["evidential", "learned"]) -> None:
    """Every network must give evidence for classes, or say what may be otherwise."""
    from medseg.networks.learned_noise import noises_of

    lacking = "give no evidence for classes" if source == "evidential" else "do not say what may be otherwise"
    for one in every:
        if one.configuration.network.head != source or one.labels.activation != "softmax":
            raise SettingsError(
                f"The networks of '{one.name}' {lacking}. Train with network.head={source} loss=[dice,{source}] "
                "(labels, not regions), or choose another uncertainty=."
            )
        if source == "learned" and not all(noises_of(network) for network in one.networks):
            raise SettingsError(
                f"An exported graph of '{one.name}' gives the expected probabilities alone. Predict with the bundle it "
                "was made from for uncertainty=learned."
            )


def _require_dropout(every: Sequence[Networks]) -> None:
    """Every network must have features to drop."""
    from medseg.networks.dropout import dropouts_of

    for one in every:
        if not all(dropouts_of(network) for network in one.networks):
            raise SettingsError(
                f"The networks of '{one.name}' were planned without dropout, so there is nothing to sample. Train with "
                "network.dropout=0.2, or choose another uncertainty=."
            )


def judge_in(model: Model, networks: Networks) -> ImageJudge | None:
    """What warns of unusual images, where the model can tell; a reason why not is said and stops nothing."""
    from medseg.uncertainty.judge import judge_of

    try:
        return judge_of(model, networks)
    except CheckpointError as error:
        say(str(error))
        return None


def trust_in(model: Model, networks: Networks, rate: float) -> Trust:
    """What the model's calibration says at a rate, if it has one. Raises CheckpointError for that of other networks."""
    from medseg.uncertainty.calibration import Calibration
    from medseg.uncertainty.case import Trust

    calibration = None if model.calibration is None else Calibration.load(model.calibration)
    if calibration is not None:
        _require_same(model, networks, calibration)
    return Trust(networks.labels, calibration, rate)


def _require_same(model: Model, networks: Networks, calibration: Calibration) -> None:
    """The calibration has to be that of the configurations at hand, whichever of their folds are asked."""
    for one in (networks, *networks.beside):
        numbered = [fold for fold in model.weights[one.name] if isinstance(fold, int)]
        if not numbered or calibration.identities.get(one.name) != model.load(one.name, numbered).identity:
            raise CheckpointError(
                f"{model.calibration} was not made for the networks of '{one.name}'. Run 'medseg calibrate' again, or "
                "delete it to go on without calibration."
            )


def write_maps(folder: Path, prediction: Prediction) -> CaseUncertainty:
    """The Case's maps and contours as NIfTI in ``folder`` / case, all of them or none; and its numbers."""
    from medseg.uncertainty.case import CaseAccumulator

    seen = prediction.seen
    assert isinstance(seen, CaseAccumulator)  # what with_uncertainty asked for
    with folder_written_whole(folder / prediction.case) as place:
        for name, array in seen.maps.items():
            write_image(place / f"{name}.nii.gz", array, prediction.image)
        for number, contours in enumerate(seen.contours, start=1):
            write_labels(place / f"contours_{number}.nii.gz", contours, prediction.image)
    warning = prediction.judged.warning if prediction.judged is not None else None
    return seen.summary(prediction.case, warning)


def write_worklist(output: Path, spread: Spread, cases: Sequence[CaseUncertainty]) -> None:
    """``uncertainty.json`` and ``worklist.csv``, the most urgent Case first; and the first of them as a table."""
    from medseg.uncertainty.case import MemberSpread

    assert isinstance(spread, MemberSpread)  # what with_uncertainty asked for
    summary = spread.trust.summary(spread.source, cases)
    summary.save(output / "uncertainty.json")
    columns = [
        "case",
        "review score",
        "structure",
        "volume ml",
        "90 % interval ml",
        "presence",
        "expected Dice",
        "Dice at least",
        "warning",
    ]
    rows = [row for case in summary.cases for row in _rows(case)]
    with (
        written_whole(output / "worklist.csv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        csv.writer(stream).writerows([columns, *rows])
    shown = [row[:-1] for case in summary.cases[:_SHOWN] for row in _rows(case)]
    table("Most urgent first", columns[:-1], shown)
    unusual = [case.case for case in summary.cases if case.warning is not None]
    if unusual:
        say(f"Unusual images, which stand first: {', '.join(unusual)}")
    say(f"Maps (nats): {output / 'uncertainty'}; every case: {output / 'worklist.csv'}, {output / 'uncertainty.json'}")
    if summary.assumption is not None:
        say(f"What is guaranteed at {summary.rate:g}: {summary.assumption}")


def _rows(case: CaseUncertainty) -> list[list[str]]:
    rows = []
    for one in case.structures:
        estimate, bound = one.estimate, one.guaranteed.dice_low if one.guaranteed is not None else None
        interval = f"{estimate.low_ml:.3f} to {estimate.high_ml:.3f}"
        dice = ("-" if value is None else f"{value:.3f}" for value in (estimate.expected_dice, bound))
        numbers = (f"{estimate.prediction_ml:.3f}", interval, f"{estimate.presence:.3f}", *dice)
        rows.append([case.case, f"{case.review_score:.3f}", estimate.name, *numbers, case.warning or ""])
    return rows
