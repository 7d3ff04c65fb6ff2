"""Weights of one network as the start of another: what fits is copied, both ends follow their names."""

import pytest
import torch

from medseg.networks.build import BUILDERS, build_network
from medseg.networks.transfer import Ends, transfer
from medseg.planning.plan import NetworkPlan

MR = Ends(("T1", "FLAIR"), ("background", "left", "right"))


def plan_of(name, features=(4, 6, 8), kernels=None, convolutions=2, deep_supervision=True):
    depth = len(features)
    return NetworkPlan(
        name=name,
        features=features,
        strides=((1, 1, 1), *[(2, 2, 2)] * (depth - 1)),
        kernels=kernels or ((3, 3, 3),) * depth,
        encoder_convolutions=(convolutions,) * depth,
        decoder_convolutions=(convolutions,) * (depth - 1),
        deep_supervision=deep_supervision,
    )


def network_of(seed, ends, name, dimensions=3, **plan):
    torch.manual_seed(seed)
    return build_network(plan_of(name, **plan), dimensions, len(ends.channels), len(ends.outputs))


def moved(name, wanted, known=MR, **plan):
    """Source and new network after the transfer (in eval mode), and what became of each tensor."""
    source, new = network_of(1, known, name), network_of(2, wanted, name, **plan)
    found = transfer(source.state_dict(), known, new.state_dict(), wanted)
    new.load_state_dict(found.state)
    return source.eval(), new.eval(), found


@pytest.mark.parametrize("name", list(BUILDERS))
class TestEveryNetwork:
    def test_the_same_network_is_copied_whole(self, name):
        source, new, found = moved(name, MR)
        image = torch.randn(1, 2, 8, 8, 8)
        assert torch.equal(source(image), new(image))
        assert set(found.fates.values()) == {"copied"}
        assert found.parameters("copied") == sum(p.numel() for p in new.parameters())
        encoder = {key for key, _ in new.named_parameters() if key.startswith("encoder.")}
        assert set(found.frozen_encoder()) == encoder

    def test_outputs_follow_their_names_in_any_order_and_new_ones_are_fresh(self, name):
        wanted = Ends(MR.channels, ("background", "Right", "middle", "left"))
        source, new, found = moved(name, wanted)
        image = torch.randn(1, 2, 8, 8, 8)
        before, after = source(image), new(image)
        assert torch.allclose(after[:, [0, 3, 1]], before, atol=1e-6)
        fresh = network_of(2, wanted, name).state_dict()
        heads = [key for key in fresh if ".heads." in key]
        assert heads
        assert all(torch.equal(found.state[key][2], fresh[key][2]) for key in heads)
        assert {found.fates[key] for key in heads} == {"adapted"}
        assert {fate for key, fate in found.fates.items() if key not in heads} == {"copied"}

    def test_a_new_channel_beside_known_ones_changes_nothing_at_first(self, name):
        source, new, found = moved(name, Ends(("flair", "T2", "t1"), MR.outputs))
        image = torch.randn(1, 3, 8, 8, 8)
        assert torch.allclose(new(image), source(image[:, [2, 0]]), atol=1e-5)
        adapted = [key for key, fate in found.fates.items() if fate == "adapted"]
        assert len(adapted) == 1
        assert found.state[adapted[0]].shape[1] == 3
        assert adapted[0] not in found.frozen_encoder()

    @pytest.mark.parametrize("channels", [("CT",), ("a", "b", "c", "d")])
    def test_unknown_channels_share_what_was_learned_at_the_same_strength(self, name, channels):
        source, new, _ = moved(name, Ends(channels, MR.outputs))
        grey = torch.randn(1, 1, 8, 8, 8)
        same = source(grey.expand(-1, 2, -1, -1, -1))
        assert torch.allclose(new(grey.expand(-1, len(channels), -1, -1, -1)), same, atol=1e-4)

    def test_a_shallower_or_deeper_network_shares_the_fine_stages(self, name):
        # The light network of two stages begins at another resolution.
        for features in ((4, 6, 8, 10),) if name == "light" else ((4, 6), (4, 6, 8, 10)):
            _, _, found = moved(name, MR, features=features)
            of = {
                key: found.fates[key]
                for key in found.fates
                if key.startswith(("encoder.stages.0.", "encoder.stages.1."))
            }
            assert set(of.values()) == {"copied"}
            if name == "unetpp":
                fine = {fate for key, fate in found.fates.items() if key.startswith("decoder.nodes.x_0_1.")}
                assert fine == {"copied"}
            if name in ("unetpp", "segformer", "deeplab", "light"):
                continue  # whose decoder depends on its depth as a whole
            finest = f"decoder.stages.{len(features) - 2}."
            assert {fate for key, fate in found.fates.items() if key.startswith(finest)} == {"copied"}
            assert found.fates[f"decoder.heads.{len(features) - 2}.weight"] == "copied"

    def test_nothing_is_taken_of_a_network_with_other_widths(self, name):
        _, _, found = moved(name, MR, features=(32, 48, 64))
        assert set(found.fates.values()) == {"new"}
        assert not found.fits
        assert not found.frozen_encoder()

    def test_parameters_of_all_fates_add_up(self, name):
        _, new, found = moved(name, Ends(("CT",), ("background", "left", "new")))
        fates = ("copied", "adapted", "new")
        assert sum(found.parameters(fate) for fate in fates) == sum(p.numel() for p in new.parameters())
        assert sum(found.tensors(fate) for fate in fates) == len(new.state_dict())
        assert found.fits


def test_outputs_without_a_known_name_leave_the_heads_fresh():
    _, _, found = moved("unet", Ends(MR.channels, ("whole", "core")))
    assert {fate for key, fate in found.fates.items() if ".heads." in key} == {"new"}
    assert found.fits


def test_biases_and_norms_are_not_taken_without_their_convolution():
    _, _, found = moved("unet", MR, kernels=((1, 3, 3),) * 3)
    taken = [key for key, fate in found.fates.items() if fate == "copied"]
    assert all(key.startswith(("decoder.transposed.", "decoder.heads.")) for key in taken)


@pytest.mark.parametrize(
    ("source", "wanted", "shared"),
    [
        ("unet", "attention_unet", ""),
        ("attention_unet", "unetpp", ""),
        ("unet", "transunet", "stages."),
        ("residual_unet", "deeplab", ""),
    ],
)
def test_networks_with_the_same_encoder_begin_with_each_others(source, wanted, shared):
    old, new = network_of(1, MR, source), network_of(2, MR, wanted)
    found = transfer(old.state_dict(), MR, new.state_dict(), MR)
    encoder = {key: fate for key, fate in found.fates.items() if key.startswith(f"encoder.{shared}")}
    assert set(encoder.values()) == {"copied"}
    assert set(encoder) <= set(found.frozen_encoder())
