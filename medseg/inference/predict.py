"""From a prepared image to Labels on the file's own grid, and from the files of a Case to the Labels to write.

Knows nothing of where models lie on the disk (``medseg.inference.bundle``). Probabilities are averaged over folds,
mirror images and tiles by default; ``combine="logits"`` averages logits instead, and ``combine="nnunet"`` does so with
nnU-Net's own rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from medseg.arrays import Image, Labels
from medseg.cases.case import Case, doubt_sides, peek_case_image, read_case_image
from medseg.cases.labels import LabelTable
from medseg.errors import DatasetError, SettingsError
from medseg.images.volume import Volume
from medseg.inference.components import apply_rules
from medseg.inference.decision import decision_of
from medseg.inference.memory import Bound, Layout, Memory, choose_layout
from medseg.inference.model import Networks
from medseg.inference.options import Accumulator, Combine, Judged, Options
from medseg.inference.passes import LabelsOfAverage, Passes, PreparedImage, network_rows
from medseg.inference.restore import restore_labels, restore_scores
from medseg.planning.plan import ConfigurationPlan
from medseg.preprocessing.grid import Grid
from medseg.progress import Progress, Silent


def predict_image(
    image: Image,
    grid: Grid,
    networks: Sequence[nn.Module],
    configuration: ConfigurationPlan,
    *,
    labels: LabelTable,
    device: torch.device | str = "cpu",
    mirror_axes: Iterable[int] = (),
    step: float = 0.5,
    tile_batch: int | None = None,
    combine: Combine = "probabilities",
    case: str = "",
    progress: Progress | None = None,
) -> Labels:
    """Label indices ``(Z, Y, X)`` on the file's own grid of a prepared image ``(C, Z, Y, X)``.

    The networks are moved to ``device`` and put into eval mode for the time of the prediction. ``labels`` are what
    they were trained on; ``step`` is the distance of tiles as a share of the patch; ``tile_batch`` is chosen by the
    memory when left out. Raises MedsegError when a network gives NaN or the memory does not suffice, SettingsError for
    a step outside of 0 to 1.
    """
    device = torch.device(device)
    with _in_eval_mode(networks):
        for network in networks:
            network.to(device)
        options = Options(device, True, step, tile_batch, combine)
        rows = network_rows(image, networks, configuration, labels, mirror_axes, options, Layout(), case, progress)
        return restore_labels(rows, grid, decision_of(labels, logits=combine != "probabilities"))


def probability_rows(
    image: Volume, model: Networks, options: Options, case: str = "", prepared: PreparedImage | None = None
) -> tuple[Grid, Iterator[Tensor]]:
    """Class probabilities of each row of the crop box, ``(K, Y, X)`` in network axes, ascending; and the Grid.

    Only ``model`` itself is asked, not what stands beside it. Rows are computed as they are taken. ``prepared`` is the
    image for somebody else to look at as well.
    """
    layout, _ = choose_layout(image, model, options, Bound.of(options), case)
    grid, rows = Passes(prepared or PreparedImage(image, [model]), [model], options, layout, case).scores(model)
    return grid, restore_scores(rows, grid)


def predict_together(
    image: Volume,
    members: Sequence[Networks],
    combinations: Sequence[Sequence[int]],
    options: Options,
    case: str = "",
    progress: Progress | None = None,
    accumulators: Callable[[Grid], Sequence[Accumulator]] | None = None,
) -> list[Labels]:
    """Label indices ``(Z, Y, X)`` of an image for each combination of members (by place), in one pass over all of them.

    The probabilities of a combination's members are averaged with equal weight; ``accumulators`` makes what else is
    to see every member's rows. Memory grows with the members and with one row, not with the volume times the classes.
    Raises what ``predict_case`` raises.
    """
    first, *others = members
    layout, _ = choose_layout(image, replace(first, beside=tuple(others)), options, Bound.of(options), case)
    prepared = PreparedImage(image, members)
    return _averaged(prepared, members, combinations, options, layout, case, progress, accumulators)


def _averaged(
    prepared: PreparedImage,
    members: Sequence[Networks],
    combinations: Sequence[Sequence[int]],
    options: Options,
    layout: Layout,
    case: str,
    progress: Progress | None,
    accumulators: Callable[[Grid], Sequence[Accumulator]] | None = None,
) -> list[Labels]:
    grid, decision = prepared.prepare(members[0])[1], decision_of(members[0].labels)
    averages = [LabelsOfAverage(grid, decision, combination) for combination in combinations]
    others = accumulators(grid) if accumulators is not None else ()
    Passes(prepared, members, options, layout, case, progress).stream([*averages, *others])
    return [average.labels for average in averages]


@contextmanager
def _in_eval_mode(networks: Sequence[nn.Module]) -> Iterator[None]:
    training = [network.training for network in networks]
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for network, was_training in zip(networks, training, strict=True):
            network.train(was_training)


@dataclass(frozen=True)
class Prediction:
    """What was found in one Case."""

    case: str
    """Its name."""
    indices: Labels
    """``(Z, Y, X)`` on the grid of ``image``; ``LabelTable.to_values`` makes file values of them."""
    image: Volume
    """As read; what the labels are written like."""
    remarks: tuple[str, ...]
    seen: Accumulator | None = None
    """What ``Options.spread`` has made and shown the rows."""
    judged: Judged | None = None
    """What ``Options.judge`` says of the image."""


@dataclass(frozen=True)
class Ready:
    """A Case that is read and prepared, so that only its networks have to run."""

    case: str
    """Its name."""
    prepared: PreparedImage
    remarks: tuple[str, ...]


def predict_case(
    case: Case,
    model: Networks,
    options: Options,
    progress: Progress,
    announce: Callable[[Memory], None] | None = None,
) -> Prediction:
    """Read, prepare and predict one Case; ``announce`` is told the estimated peak before the work starts.

    Raises DatasetError or GeometryError for files that can't be used, MedsegError when the prediction fails or the
    memory does not suffice.
    """
    bound, size = Bound.of(options), peek_case_image(case)
    ready = read_ready(case, model) if size is None else None
    size = ready.prepared.image if ready is not None else size
    assert size is not None  # either of the two
    layout, memory = choose_layout(size, model, options, bound, case.name)
    if announce is not None:
        announce(memory)
    ready = ready or read_ready(case, model)
    return finish_case(predict_ready(ready, model, options, layout, progress), model, options)


def read_ready(case: Case, model: Networks) -> Ready:
    """Read and prepare one Case for every configuration of the model.

    Raises DatasetError or GeometryError for files that can't be used.
    """
    image = read_case_image(case, len(model.plan.channels))
    doubts = _require_sides(case, image, model)
    return Ready(case.name, PreparedImage(image, (model, *model.beside)), (*image.remarks, *doubts))


def predict_ready(ready: Ready, model: Networks, options: Options, layout: Layout, progress: Progress) -> Prediction:
    """Run the networks over a Case that is prepared. Raises MedsegError when that fails."""
    prediction = _predict_ready(ready, model, options, layout, progress)
    return _judged(prediction, ready.prepared, model, options)


def _judged(prediction: Prediction, prepared: PreparedImage, model: Networks, options: Options) -> Prediction:
    """The same with what ``Options.judge`` says, whose warning is a remark."""
    if options.judge is None:
        return prediction
    judged = options.judge(prepared, model)
    warned = (judged.warning,) if judged.warning is not None else ()
    return replace(prediction, judged=judged, remarks=(*prediction.remarks, *warned))


def _predict_ready(ready: Ready, model: Networks, options: Options, layout: Layout, progress: Progress) -> Prediction:
    members, name, spread = (model, *model.beside), ready.case, options.spread
    if len(members) == 1 and spread is None:
        indices = Passes(ready.prepared, members, options, layout, name, progress).labels(model)
        return Prediction(name, indices, ready.prepared.image, ready.remarks)
    if options.combine != "probabilities":
        raise SettingsError(
            "Only the probabilities of several configurations can be averaged, not their logits. Name one with "
            "configuration=NAME, or leave combine= and compat= out."
        )
    seen = spread.accumulator(ready.prepared.prepare(model)[1]) if spread is not None else None
    others = (lambda _: [seen]) if seen is not None else None
    (indices,) = _averaged(ready.prepared, members, [range(len(members))], options, layout, name, progress, others)
    return Prediction(name, indices, ready.prepared.image, ready.remarks, seen)


def finish_case(prediction: Prediction, model: Networks, options: Options) -> Prediction:
    """The same after the component rules that the model has learned, if any."""
    if not options.postprocess or not model.rules:
        return prediction
    return replace(prediction, indices=apply_rules(prediction.indices, model.rules, model.labels))


def predict_volume(
    image: Volume, model: Networks, options: Options, case: str = "", progress: Progress | None = None
) -> Labels:
    """Label indices ``(Z, Y, X)`` on the grid of an image ``(C, Z, Y, X)``, post-processing included.

    Raises MedsegError when the prediction fails, SettingsError where options contradict the model.
    """
    return predict_judged(image, model, options, case, progress).indices


def predict_judged(
    image: Volume, model: Networks, options: Options, case: str = "", progress: Progress | None = None
) -> Prediction:
    """``predict_volume`` with all that is said of the image; its own remarks are not repeated."""
    layout, _ = choose_layout(image, model, options, Bound.of(options), case)
    ready = Ready(case, PreparedImage(image, (model, *model.beside)), ())
    return finish_case(predict_ready(ready, model, options, layout, progress or Silent()), model, options)


def predict_watched(
    image: Volume,
    model: Networks,
    options: Options,
    accumulators: Callable[[Grid], Sequence[Accumulator]],
    case: str = "",
    progress: Progress | None = None,
) -> Prediction:
    """``predict_judged``, whose averaged probabilities what ``accumulators`` makes gets to see.

    Raises SettingsError where logits are to be averaged, which gives no probabilities, else what ``predict_case`` does.
    """
    if options.combine != "probabilities":
        raise SettingsError("This needs averaged probabilities. Leave combine= and compat= out.")
    members = (model, *model.beside)
    layout, _ = choose_layout(image, model, options, Bound.of(options), case)
    prepared, shown = PreparedImage(image, members), progress or Silent()
    (indices,) = _averaged(prepared, members, [range(len(members))], options, layout, case, shown, accumulators)
    return finish_case(_judged(Prediction(case, indices, image, ()), prepared, model, options), model, options)


def _require_sides(case: Case, image: Volume, model: Networks) -> tuple[str, ...]:
    """A remark where sides can't be told from the file; an error where the file could have said how it lies."""
    if model.plan.orientation != "canonical":
        return ()
    doubt = doubt_sides(case, image, model.labels.target_names)
    if doubt is None:
        return ()
    if doubt.severity == "error":
        remedy = "Write its orientation into the header (a code above 0 for sform or qform)."
        raise DatasetError(f"{doubt.sentence} {remedy}")
    return (str(doubt),)
