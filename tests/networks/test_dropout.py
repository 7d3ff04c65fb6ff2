"""Features that are dropped in training, and networks that are one sample of it each."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medseg.inference.memory import Layout
from medseg.inference.options import Options
from medseg.inference.passes import Passes, PreparedImage
from medseg.inference.predict import predict_volume
from medseg.networks.build import build_network
from medseg.networks.dropout import DropoutSample, MapDropout, dropouts_of
from medseg.uncertainty.case import MemberSpread, Trust

from tiny import tiny_plan
from tiny_networks import CPU, image_of, model_of

MAPS = [torch.ones(2, 4, 8, 8, 8), torch.ones(2, 400, 4, 4, 4), torch.ones(2, 400, 2, 2, 2)]


def network(dropout=0.3, dimensions=3):
    configuration = next(iter(tiny_plan(dimensions).configurations.values()))
    torch.manual_seed(0)
    return build_network(configuration.network.model_copy(update={"dropout": dropout}), dimensions, 1, 3).eval()


def test_whole_maps_are_dropped_but_never_the_finest_and_the_rest_makes_up_for_it():
    layer = MapDropout(0.25).train()
    finest, *others = layer(MAPS)
    assert finest is MAPS[0]
    for maps in others:
        each = maps.flatten(2)
        assert each.unique().tolist() == pytest.approx([0.0, 4 / 3])
        assert (each.amax(2) == each.amin(2)).all()  # a feature is there everywhere or nowhere
        assert float((each[:, :, 0] == 0).float().mean()) == pytest.approx(0.25, abs=0.05)
        assert not torch.equal(each[0], each[1])  # each patch of a batch by itself
    assert all(one is two for one, two in zip(layer.eval()(MAPS), MAPS, strict=True))


def test_a_sample_is_one_network_for_every_patch_and_leaves_the_network_as_it_was():
    sample, patch = DropoutSample(network(), 3), torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        plain, first, again = sample.network(patch), sample(patch), sample(torch.cat([patch, patch]))
        other = DropoutSample(sample.network, 4)(patch)
        assert torch.equal(plain, sample.network(patch))
    torch.testing.assert_close(first, again[1:], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(first, plain)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_dropout_adds_no_weights_and_no_dropout_is_the_network_it_was(dimensions):
    with_it, without = network(0.3, dimensions), network(0.0, dimensions)
    assert list(with_it.state_dict()) == list(without.state_dict())
    assert len(dropouts_of(with_it)) == 1
    assert dropouts_of(without) == []
    patch = torch.randn(1, 1, 1 if dimensions == 2 else 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(with_it(patch), without(patch))


def test_samples_disagree_the_same_way_every_time_whatever_goes_through_at_once():
    model = replace(model_of(3), networks=(network(0.4),))
    image, maps = image_of((20, 16, 18)), []
    for tile_batch in (1, 2):
        spread = MemberSpread("dropout", Trust(model.labels, None, 0.9), samples=4, seed=1)
        options = Options(CPU, mirror=False, spread=spread, tile_batch=tile_batch)
        prepared = PreparedImage(image, (model,))
        seen = spread.accumulator(prepared.prepare(model)[1])
        Passes(prepared, (model,), options, Layout()).stream([seen])
        maps.append(seen.maps["epistemic"])
        assert predict_volume(image, model, options).shape == (20, 16, 18)
    assert maps[0].max() > 0.001
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-5)
