"""``medseg test``: predict and score the test set that 'medseg plan' has set aside; every look at it is counted.

Once, when everything else is settled: ``medseg test``
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from medseg.cases.case import read_case_labels
from medseg.cases.formats import read_dataset
from medseg.commands.chosen import chosen_workspace
from medseg.commands.console import Bar, say, table
from medseg.errors import SettingsError
from medseg.evaluation.scores import as_rows, score_case, summarise, write_csv
from medseg.files import folder_written_whole
from medseg.images.formats import write_labels
from medseg.inference.options import DEFAULT_QUALITY, Options, Quality
from medseg.run_record import record_run
from medseg.settings import Settings, build


class TestSettings(Settings):
    """Settings of ``medseg test``."""

    workspace: Path | None = None
    """A workspace whose dataset has a test set; by default the one last used from here."""
    model: Path | None = None
    """A bundle or a workspace to score; by default the workspace itself."""
    configuration: str | None = None
    """2d, 3d_fullres, ...; by default what 'medseg select' has chosen, or the plan's own choice."""
    quality: Quality = DEFAULT_QUALITY
    """As in 'medseg predict': fast, balanced or best."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU where there is one."""


SETTINGS = (TestSettings,)


def run(words: Mapping[str, str]) -> None:
    """Predict and score every case of the test set; the result is one more folder ``test/look_<n>``, whole or not."""
    settings = build(TestSettings, words)
    workspace = chosen_workspace(settings.workspace)
    cases = read_dataset(workspace.dataset).test
    if not cases:
        raise SettingsError(
            f"The dataset of {workspace.folder} has no test set. Set one aside with 'medseg plan test=0.2', before "
            "anything is trained on it."
        )
    from medseg.inference.bundle import open_model
    from medseg.inference.devices import choose_device
    from medseg.inference.predict import predict_case
    from medseg.training.validation import draw_extremes

    started = time.monotonic()
    device = choose_device(settings.device)
    networks = open_model(settings.model or workspace.folder).load(settings.configuration, None, device)
    number = 1 + len(list(workspace.test.glob("look_*")))
    labels, scored = networks.labels, []
    with folder_written_whole(workspace.test / f"look_{number}") as folder, Bar() as bar:
        for case in cases:
            prediction = predict_case(case, networks, Options.of(settings.quality, device), bar)
            image, truth = prediction.image, read_case_labels(case, labels, prediction.image)
            scored.append(score_case(prediction.indices, truth.array, truth.spacing, labels, case=case.name))
            write_labels(folder / "predictions" / f"{case.name}.nii.gz", labels.to_values(prediction.indices), image)
            bar.finish()
        scores = summarise(scored)
        scores.save(folder / "scores.json")
        write_csv(folder / "scores.csv", scores)
        labels.save(folder / "predictions" / "labels.yaml")
        draw_extremes(scores, cases, labels, folder, folder / "predictions")
        sources = {name: "words" if name in words else "default" for name in TestSettings.model_fields}
        facts = {"model": networks.identity, "look": number, "seconds": round(time.monotonic() - started, 1)}
        record_run(folder / "run.json", "test", words, settings.model_dump(mode="json"), sources, facts)
    columns, rows = as_rows(scores)
    table(f"Test set of {workspace.folder.name}: {len(cases)} cases", columns, rows)
    say(f"Scores, predictions and pictures: {workspace.test / f'look_{number}'}")
    if number > 1:
        say(
            f"This is look number {number} at the test set. Whoever chooses by what it shows needs another one for an "
            "honest number."
        )
