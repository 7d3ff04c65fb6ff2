"""The members' disagreement as inference streams it, against the same computed with every member kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medseg.inference.memory import Layout
from medseg.inference.options import Options
from medseg.inference.passes import Passes, PreparedImage
from medseg.inference.predict import predict_volume, probability_rows
from medseg.uncertainty.calibration import Observed, make_calibration, observe_case
from medseg.uncertainty.case import INNER, MAPS, OUTER, CaseAccumulator, MemberSpread, Trust
from medseg.uncertainty.members import with_evidence

from tiny_networks import CPU, image_of, model_of

SHAPE = (20, 16, 18)


def members(count=3, classes=3, **more):
    """One model of several networks that disagree."""
    first = replace(model_of(classes, **more), mirror_axes=(0, 1, 2))
    return replace(first, networks=tuple(model_of(classes, seed=seed, **more).networks[0] for seed in range(count)))


def streamed(model, source="tta", mirror=True, calibration=None, image=None, rate=0.6, beside=()):
    """The accumulator after all rows of an image, and the options."""
    image = image_of(SHAPE) if image is None else image
    spread = MemberSpread(source, Trust(model.labels, calibration, rate))
    options = Options(CPU, mirror=mirror, spread=spread)
    prepared = PreparedImage(image, (model, *beside))
    seen = spread.accumulator(prepared.prepare(model)[1])
    Passes(prepared, (model, *beside), options, Layout()).stream([seen])
    return seen, options


def whole(model, image, mirror=False):
    """Probabilities ``(K, Z, Y, X)`` of the crop box."""
    _, rows = probability_rows(image, model, Options(CPU, mirror=mirror))
    return torch.stack([row.clone() for row in rows], dim=1).double()


def entropy(p):
    return -(p * p.clamp(min=1e-12).log()).sum(dim=0)


@pytest.mark.parametrize("source", ["tta", "ensemble"])
def test_maps_are_those_of_members_that_were_all_kept(source):
    # One tile, so that members are networks (times mirror images) and nothing else.
    model, image = members(patch=(20, 16, 18)), image_of(SHAPE)
    seen, _ = streamed(model, source, image=image)
    each = []
    for network in model.networks:
        alone = replace(model, networks=(network,))
        if source == "ensemble":
            each.append(whole(alone, image, mirror=True))
            continue
        for flips in ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
            turned = replace(image, array=np.ascontiguousarray(np.flip(image.array, [axis + 1 for axis in flips])))
            each.append(whole(alone, turned).flip([axis + 1 for axis in flips]))
    every = torch.stack(each)
    total, expected = entropy(every.mean(dim=0)), torch.stack([entropy(one) for one in every]).mean(dim=0)
    np.testing.assert_allclose(seen.maps["entropy"], total, atol=2e-5)
    np.testing.assert_allclose(seen.maps["aleatoric"], expected, atol=2e-5)
    np.testing.assert_allclose(seen.maps["epistemic"], total - expected, atol=2e-5)
    np.testing.assert_allclose(seen.maps["variance"], every.var(dim=0, correction=0).sum(dim=0), atol=2e-5)
    assert seen.maps["epistemic"].max() > 0.01


def test_labels_are_the_same_whether_uncertainty_is_asked_for_or_not():
    model, image = members(), image_of(SHAPE)
    seen, options = streamed(model, image=image)
    plain = predict_volume(image, model, Options(CPU, mirror=True))
    np.testing.assert_array_equal(predict_volume(image, model, options), plain)
    found = [one.estimate.prediction_ml for one in seen.summary("a").structures]
    np.testing.assert_allclose(found, [(plain == k).sum() / 1000 for k in (1, 2)], rtol=1e-6)


def test_no_part_of_the_entropy_is_negative_on_another_grid_with_several_tiles():
    model = members(spacing=(1.4, 0.8, 1.0))
    seen, _ = streamed(model)
    for name in MAPS:
        assert seen.maps[name].min() >= 0
    np.testing.assert_allclose(seen.maps["aleatoric"] + seen.maps["epistemic"], seen.maps["entropy"], atol=1e-6)


def test_members_that_agree_have_no_epistemic_part_whatever_the_grid():
    model = model_of(3, spacing=(1.7, 1.3, 0.7), patch=(20, 20, 28))
    seen, _ = streamed(replace(model, networks=model.networks * 3), "ensemble", mirror=False)
    assert seen.maps["entropy"].max() > 0.1
    assert seen.maps["epistemic"].max() < 1e-4


def test_two_configurations_are_members_of_one_another():
    first, second = members(2), members(2, spacing=(1.5, 1.0, 1.0), patch=(16, 16, 16))
    second = replace(second, identity="another")
    image = image_of(SHAPE)
    seen, _ = streamed(first, "ensemble", mirror=False, image=image, beside=(second,))
    mean = (whole(first, image) + whole(second, image)) / 2
    np.testing.assert_allclose(seen.maps["entropy"], entropy(mean), atol=2e-5)
    assert seen.maps["epistemic"].min() >= 0


def observed_cases(model, count):
    """Held-out cases whose truth is what another network finds."""
    other, found = model_of(3, seed=9), []
    for number in range(count):
        image = image_of(SHAPE, seed=number)
        grid, rows = probability_rows(image, model, Options(CPU, mirror=False))
        truth = predict_volume(image, other, Options(CPU, mirror=False))
        found.append(observe_case(str(number), number % 3, rows, grid, truth, model.labels))
    return found


def test_a_calibrated_model_scales_entropy_and_draws_contours_that_hold():
    model = members(2)
    observed = observed_cases(model, 12)
    calibration, _ = make_calibration(observed, model.labels, {}, rate=0.6)
    image = image_of(SHAPE, seed=99)
    plain, _ = streamed(model, "ensemble", mirror=False, image=image)
    seen, _ = streamed(model, "ensemble", mirror=False, image=image, calibration=calibration)
    assert calibration.temperature > 1
    assert seen.maps["entropy"].mean() > plain.maps["entropy"].mean()
    np.testing.assert_allclose(seen.maps["aleatoric"] + seen.maps["epistemic"], seen.maps["entropy"], atol=1e-6)
    assert plain.contours == ()
    for contours, structure in zip(seen.contours, seen.summary("a").structures, strict=True):
        assert set(np.unique(contours)) <= {0, OUTER, INNER}
        assert (contours == INNER).sum() < (contours > 0).sum()
        bound = structure.guaranteed
        assert bound.volume_low_ml <= bound.volume_high_ml
        assert 0 <= bound.dice_low <= 1


def test_numbers_that_were_not_measured_crosswise_say_so():
    model = members(2)
    observed = [replace(one, group=0) for one in observed_cases(model, 2)]
    alone, _ = make_calibration(observed, model.labels, {})
    assert "2 held-out case(s)" in alone.headline
    assert "new cases will be worse" in alone.headline
    several, _ = make_calibration([observed[0], replace(observed[1], group=1)], model.labels, {})
    assert several.headline.endswith("each measured without its own group")


def test_a_limit_that_holds_everything_covers_the_whole_image():
    model = members(2)
    one: Observed = observed_cases(model, 1)[0]
    one = replace(one, true_voxels=tuple(3 * n + 9 for n in one.true_voxels))  # as if most of it had been cropped
    calibration, _ = make_calibration([one, replace(one, group=1)], model.labels, {}, rate=0.51)
    seen, _ = streamed(model, "ensemble", mirror=False, calibration=calibration, rate=0.6)
    assert all((contours > 0).all() for contours in seen.contours)
    assert isinstance(seen, CaseAccumulator)


def test_evidence_is_the_entropy_that_all_probabilities_it_allows_have_on_average():
    logits = torch.tensor([[2.0, 0.3, 0.0], [0.0, 0.0, 0.0], [4.0, 4.0, 0.0]])[:, :, None, None, None]
    found = with_evidence(logits)
    random = np.random.default_rng(0)
    for place in range(3):
        drawn = random.dirichlet(np.exp(logits[place].flatten().numpy()), 100_000)
        mean, entropy, squares = drawn.mean(axis=0), -(drawn * np.log(drawn)).sum(axis=1).mean(), (drawn**2).sum(axis=1)
        np.testing.assert_allclose(found[place].flatten()[:3], mean, atol=0.005)
        assert float(found[place].flatten()[3]) == pytest.approx(entropy, abs=0.005)
        assert float(found[place].flatten()[4]) == pytest.approx(squares.mean(), abs=0.005)


def test_what_a_network_knows_nothing_of_is_epistemic_and_what_it_knows_to_be_even_is_not():
    model = model_of(3, patch=(20, 16, 18))
    image = image_of(SHAPE)

    class Evidence(torch.nn.Module):
        def forward(self, x):
            logits = torch.zeros(len(x), 3, *x.shape[2:])
            logits[:, :2, :10] = 6.0  # much evidence, half for each of two classes; below, none at all
            return logits

    seen, _ = streamed(replace(model, networks=(Evidence(),)), "evidential", mirror=False, image=image)
    even, unknown = seen.maps["epistemic"][2:8].max(), seen.maps["epistemic"][12:18].min()
    assert even < 0.01 < 0.2 < unknown
    assert seen.maps["aleatoric"][2:8].min() > 0.6
    np.testing.assert_allclose(seen.maps["entropy"][12:18], np.log(3), atol=1e-3)
