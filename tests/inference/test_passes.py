from dataclasses import replace

import numpy as np
import torch
from torch import nn

from medseg.inference.memory import Layout
from medseg.inference.options import Options
from medseg.inference.passes import Passes, PreparedImage
from medseg.inference.predict import predict_together

from tiny_networks import CPU, image_of, model_of


class Counted(nn.Module):
    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside, self.calls = inside, 0

    def forward(self, tiles):
        self.calls += 1
        return self.inside(tiles)


def cascade_of(classes: int = 4):
    """A coarse member, and a cascade behind a copy of it that was loaded apart; both count their calls."""
    coarse = model_of(classes, spacing=(2.0, 2.0, 2.0))
    coarse = replace(coarse, networks=(Counted(coarse.networks[0]),), name="3d_lowres", identity="coarse")
    again = replace(coarse, networks=(Counted(coarse.networks[0].inside),))
    fine = model_of(classes, seed=1)
    torch.manual_seed(2)
    network = nn.Conv3d(classes, classes, 3, padding=1).eval().requires_grad_(False)
    fine = replace(fine, networks=(network,), name="3d_cascade_fullres", identity="fine", previous=again)
    return coarse, fine


def test_a_configuration_that_is_averaged_with_its_own_cascade_is_computed_once(tmp_path):
    image, options = image_of((24, 28, 20)), Options(CPU, scratch=tmp_path)
    coarse, fine = cascade_of()
    apart = predict_together(image, [coarse], [[0]], options)
    calls = coarse.networks[0].calls
    (alone,) = predict_together(image, [fine], [[0]], options)
    assert fine.previous.networks[0].calls == calls
    first, second, both = predict_together(image, [fine, coarse], [[1], [0], [0, 1]], options)
    assert coarse.networks[0].calls + fine.previous.networks[0].calls == 3 * calls, "once more, not twice"
    np.testing.assert_array_equal(first, apart[0])
    np.testing.assert_array_equal(second, alone)
    assert not np.array_equal(both, first)
    passes = Passes(PreparedImage(image, [fine, coarse]), [fine, coarse], options, Layout("disk"))
    np.testing.assert_array_equal(passes.labels(coarse), first)


def test_the_previous_stage_of_a_cascade_has_a_bar_of_its_own():
    titles = []

    class Titles:
        def start(self, title, total):
            titles.append(title)

        def advance(self, steps=1, **shown): ...

        def note(self, sentence): ...

        def finish(self): ...

    coarse, fine = cascade_of()
    image = image_of((24, 28, 20))
    predict_together(image, [fine], [[0]], Options(CPU), "a", Titles())
    predict_together(image, [fine, coarse], [[0, 1]], Options(CPU), "a", Titles())
    assert titles == ["a (3d_lowres)", "a", "a (3d_lowres)", "a"]


def test_accumulators_see_every_members_probabilities_row_by_row():
    class Largest:
        """The mean over the crop of the largest difference between members, as a measure of doubt would take it."""

        def __init__(self, grid):
            self.grid, self.rows, self.found = grid, [], []

        def add(self, index, rows):
            self.rows.append(index)
            self.found.append(float((rows[0] - rows[1]).abs().max()))
            assert all(torch.allclose(row.sum(0), torch.ones(()), atol=1e-5) for row in rows)

    made = []
    members = [model_of(3, seed=seed) for seed in (0, 1)]

    def accumulators(grid):
        made.append(Largest(grid))
        return made

    image = image_of((20, 18, 17))
    with_them = predict_together(image, members, [[0, 1]], Options(CPU), accumulators=accumulators)
    np.testing.assert_array_equal(with_them, predict_together(image, members, [[0, 1]], Options(CPU)))
    assert made[0].rows == list(range(20))
    assert min(made[0].found) > 0
