"""``medseg predict executor=ray``: the cases of a folder spread over an existing Ray cluster.

Every node needs medseg, and sees model, input and output under the same paths. A node loads the networks once and
writes the labels itself; a case that its node drops is predicted on another one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.cases.case import Case
from medseg.commands.chosen import FoldChoice, chosen_folds
from medseg.commands.console import Bar, say
from medseg.commands.predict import Outcomes, PredictSettings
from medseg.commands.predict_outputs import PICTURES, facts_of, write_prediction

if TYPE_CHECKING:
    from medseg.inference.model import Model, Networks
    from medseg.inference.options import Options


@dataclass(frozen=True)
class _Item:
    """A case and where its labels go."""

    case: Case
    target: Path
    picture: bool


@dataclass(frozen=True)
class _Work:
    """Predicts a case on a node."""

    model: Path
    configuration: str | None
    folds: FoldChoice
    engine: str
    options: Options

    def __call__(self, item: _Item) -> dict[str, Any]:
        from medseg.inference.predict import predict_case
        from medseg.progress import Silent

        started = time.monotonic()
        networks = _loaded(self.model, self.configuration, self.folds, str(self.options.device), self.engine)
        prediction = predict_case(item.case, networks, self.options, Silent())
        remarks = write_prediction(item.target, prediction, networks.labels, item.picture)
        return facts_of(prediction, remarks, time.monotonic() - started, item.target)


@lru_cache(maxsize=1)
def _loaded(model: Path, configuration: str | None, folds: FoldChoice, device: str, engine: Any) -> Networks:
    """The networks, kept by each process of a node for its next case."""
    from medseg.inference.bundle import open_model

    return open_model(model).load(configuration, chosen_folds(folds), device, engine)


def predict_on_cluster(
    cases: Sequence[Case],
    targets: Mapping[str, Path],
    model: Model,
    options: Options,
    settings: PredictSettings,
    outcome: Outcomes,
) -> None:
    """Predict every case somewhere, and note what became of it.

    Raises SettingsError without the extra or where no cluster answers.
    """
    work = _Work(
        model.folder.resolve(),
        settings.configuration,
        settings.folds,
        settings.engine,
        replace(options, scratch=settings.output.resolve()),
    )
    items = []
    for number, case in enumerate(cases):
        here = replace(case, images=tuple(image.resolve() for image in case.images))
        items.append(_Item(here, targets[case.name].resolve(), settings.picture and number < PICTURES))
    cluster = settings.chosen(1, gpus=int(options.device.type == "cuda"))
    with Bar() as bar:
        bar.start(f"Predicting on the cluster at {settings.address}", len(items))
        for number, finished in enumerate(cluster(work, items), start=1):
            name = finished.item.case.name
            tried = f", at attempt {finished.attempts}" if finished.attempts > 1 else ""
            if finished.error is not None:
                outcome.failed[name] = finished.error
                say(f"{number}/{len(items)} {name}: failed{tried}")
            else:
                outcome.done[name] = finished.result
                say(f"{number}/{len(items)} {name}: {finished.result['seconds']:.1f} s{tried}")
            bar.advance()
