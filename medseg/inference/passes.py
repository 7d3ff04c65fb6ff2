"""One image through several configurations: each is prepared once and computed once, whoever asks for it.

Knows nothing of files. A cascade asks for the labels of the configuration before it; where that one is averaged too,
its scores are kept and read a second time. Rows of probabilities go, member by member, to accumulators that are handed
in: ``LabelsOfAverage`` here makes labels of them; whoever wants to know how sure the members are hands in another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from medseg.arrays import Image, Labels, label_dtype
from medseg.cases.labels import LabelTable
from medseg.errors import SettingsError
from medseg.images.volume import Volume
from medseg.inference.decision import Decision, decide, decision_of
from medseg.inference.memory import Layout
from medseg.inference.model import Networks
from medseg.inference.options import Accumulator, Options
from medseg.inference.restore import crop_view, restore_labels, restore_scores
from medseg.inference.slab import Rows
from medseg.inference.sliding_window import predict_rows
from medseg.planning.plan import ConfigurationPlan
from medseg.preprocessing.grid import Grid
from medseg.preprocessing.prepare import prepare_image, prepare_labels
from medseg.preprocessing.store import with_previous
from medseg.progress import Progress, Silent

_Key = tuple[int, tuple[float, float, float]]


class LabelsOfAverage:
    """Label indices on the file's own grid by the mean probabilities of some members, each with the same weight."""

    def __init__(self, grid: Grid, decision: Decision, places: Sequence[int]) -> None:
        self.labels: Labels = np.zeros(grid.file_shape, dtype=label_dtype(decision.largest_index))
        self._crop, self._decision, self._places = crop_view(self.labels, grid), decision, places

    def add(self, index: int, rows: Sequence[Tensor]) -> None:
        """Decide on one row of the crop box."""
        first, *others = (rows[place][: self._decision.outputs] for place in self._places)
        average = sum(others) + first
        self._crop[index] = decide(average / len(self._places), self._decision).cpu().numpy()


class PreparedImage:
    """An image as each configuration sees it; those with the same spacing share the array."""

    def __init__(self, image: Volume, members: Sequence[Networks]) -> None:
        self.image = image
        self._arrays: dict[_Key, tuple[Image, Grid]] = {}
        for member in members:
            self.prepare(member)

    def prepare(self, member: Networks) -> tuple[Image, Grid]:
        """The array ``(C, Z, Y, X)`` and Grid for one configuration, without a cascade's additional channels."""
        key = (member.configuration.dimensions, member.configuration.spacing)
        if key not in self._arrays:
            self._arrays[key] = prepare_image(self.image, member.plan, member.configuration)
        return self._arrays[key]


class Passes:
    """The passes of one image through the networks of several members."""

    def __init__(
        self,
        prepared: PreparedImage,
        members: Sequence[Networks],
        options: Options,
        layout: Layout,
        case: str = "",
        progress: Progress | None = None,
    ) -> None:
        self._prepared, self._members = prepared, members
        self._options, self._layout = options, layout
        self._case, self._progress = case, progress
        asked = [member.identity for member in members]
        self._twice = {m.previous.identity for m in members if m.previous is not None and m.previous.identity in asked}
        self._kept: dict[str, Tensor] = {}
        self._labels: dict[str, Labels] = {}

    def scores(self, member: Networks) -> tuple[Grid, Iterator[Rows]]:
        """Scores of one member on its prepared grid, row by row, computed as they are taken; and the Grid."""
        grid = self._prepared.prepare(member)[1]
        if member.identity in self._twice:
            kept = self._keep(member)
            return grid, (Rows(z, kept[z : z + 1].transpose(0, 1)) for z in range(len(kept)))
        alone = len(self._members) == 1  # several are shown row by row, all together
        return grid, self._computed(member, self._case, self._progress if alone else None)

    def labels(self, member: Networks) -> Labels:
        """Label indices ``(Z, Y, X)`` on the image's own grid by one member alone, without post-processing."""
        if member.identity not in self._labels:
            decision = decision_of(member.labels, logits=self._options.combine != "probabilities")
            grid, found = self.scores(member)
            rows = (Rows(part.start, part.scores[: member.labels.outputs]) for part in found)
            self._labels[member.identity] = restore_labels(rows, grid, decision)
        return self._labels[member.identity]

    def stream(self, accumulators: Sequence[Accumulator]) -> None:
        """Give every member's probabilities to the accumulators, row by row of the crop box."""
        grid = self._prepared.prepare(self._members[0])[1]
        streams = [restore_scores(self._spread_out(rows), grid) for grid, rows in map(self.scores, self._members)]
        # One member shows its own tiles.
        progress = self._progress if self._progress is not None and len(self._members) > 1 else Silent()
        progress.start(self._case or "predicting", grid.cropped_shape[0])
        for index, rows in enumerate(zip(*streams, strict=True)):
            for accumulator in accumulators:
                accumulator.add(index, rows)
            progress.advance()
        progress.finish()

    def _spread_out(self, rows: Iterable[Rows]) -> Iterable[Rows]:
        """The rows as they are to be interpolated."""
        spread = self._options.spread
        return rows if spread is None else (Rows(part.start, spread.finish(part.scores)) for part in rows)

    def _computed(self, member: Networks, title: str, progress: Progress | None) -> Iterator[Rows]:
        return network_rows(
            self.network_input(member),
            member.averaged,
            member.configuration,
            member.labels,
            member.mirror_axes,
            self._options,
            self._layout,
            title,
            progress,
        )

    def network_input(self, member: Networks) -> Image:
        """The prepared image, in a cascade with the labels that the previous configuration predicts for it."""
        image, grid = self._prepared.prepare(member)
        if member.previous is None:
            return image
        before = replace(self._prepared.image, array=self._before(member.previous))
        classes = len(member.labels)
        return with_previous(image, prepare_labels(before, grid, classes), classes - 1)

    def _before(self, previous: Networks) -> Labels:
        """The labels of a cascade's previous configuration, with a progress bar of its own."""
        if previous.identity in self._twice:
            return self.labels(previous)
        alone = Passes(
            self._prepared, [previous], self._options, self._layout, f"{self._case} ({previous.name})", self._progress
        )
        return alone.labels(previous)

    def _keep(self, member: Networks) -> Tensor:
        """All scores of a member ``(Z, K, Y, X)``, in the memory or in a file as the layout says."""
        if member.identity not in self._kept:
            depth, height, width = self._prepared.prepare(member)[1].prepared_shape
            storage = self._layout.storage(self._options)
            dtype = torch.half if self._options.combine == "nnunet" else torch.float32
            spread = self._options.spread
            channels = member.labels.outputs + (spread.channels if spread else 0)
            kept = storage.zeros((depth, channels, height, width), dtype)
            for part in self._computed(member, f"{self._case} ({member.name})", self._progress):
                kept[part.start : part.start + part.scores.shape[1]] = part.scores.transpose(0, 1)
                storage.settle()
            self._kept[member.identity] = kept
        return self._kept[member.identity]


def network_rows(
    image: Image,
    networks: Sequence[nn.Module],
    configuration: ConfigurationPlan,
    labels: LabelTable,
    mirror_axes: Iterable[int],
    options: Options,
    layout: Layout,
    case: str,
    progress: Progress | None,
) -> Iterator[Rows]:
    """Scores of a prepared image by the networks of one configuration, row by row.

    Raises SettingsError for a step outside of 0 to 1.
    """
    if not 0 < options.step <= 1:
        raise SettingsError(f"step should be above 0 and at most 1 (a share of the patch), but is {options.step}.")
    return predict_rows(
        image,
        networks,
        configuration.patch_size,
        labels.outputs,
        device=options.device,
        mirror_axes=[axis for axis in mirror_axes if configuration.patch_size[axis] > 1],
        mirror=options.mirror,
        step=options.step,
        tile_batch=layout.tile_batch(configuration, image.shape[0], labels.outputs, options),
        combine=options.combine,
        activation=labels.activation,
        spread=options.spread,
        storage=layout.storage(options),
        case=case,
        progress=progress,
    )
