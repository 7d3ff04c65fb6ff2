"""A judge of images: compares one with the Cases on which a model was checked, by itself and by the network's features.

Knows nothing of files beyond the document that ``medseg calibrate`` has written. ``judge_volume`` is for programs that
show a prediction, ``judge_of`` for those that make one (``medseg.inference.options.Judge``).
"""

from __future__ import annotations

from dataclasses import dataclass

from medseg.errors import CheckpointError
from medseg.images.volume import Volume
from medseg.inference.model import Model, Networks
from medseg.inference.onnx import OnnxNetwork
from medseg.inference.passes import PreparedImage
from medseg.uncertainty.familiarity import FALSE_ALARMS, Familiarity, Judged, Seen, judge_image
from medseg.uncertainty.image_profile import profile_of
from medseg.uncertainty.network_features import features_of


@dataclass(frozen=True)
class ImageJudge:
    """What ``medseg.inference`` is handed to look at every image."""

    known: Familiarity
    false_alarms: float = FALSE_ALARMS
    """Share of usual images that may be called unusual."""

    def __call__(self, prepared: PreparedImage, model: Networks) -> Judged:
        """Compare a prepared image with the held-out Cases; networks without layers to look at are left aside."""
        first = first_stage(model)
        image, grid = prepared.prepare(first)
        layers = {one.fold: one.layer for one in self.known.features}
        features = {
            fold: features_of(network, image, first.configuration.patch_size, layers[fold])[1]
            for fold, network in zip(first.folds, first.networks, strict=True)
            if isinstance(fold, int) and fold in layers and not isinstance(network, OnnxNetwork)
        }
        return judge_image(self.known, profile_of(image, grid, _channels(first)), features, self.false_alarms)


def judge_of(model: Model, networks: Networks) -> ImageJudge | None:
    """The judge of a model's images; None where ``medseg calibrate`` has not learned what they are like.

    Raises CheckpointError where it has learned that of other networks.
    """
    if model.familiarity is None:
        return None
    known, name = Familiarity.load(model.familiarity), first_stage(networks).name
    numbered = [fold for fold in model.weights.get(name, ()) if isinstance(fold, int)]
    if known.configuration != name or known.identity != model.identity(name, numbered):
        raise CheckpointError(
            f"{model.familiarity} was made for other networks than those of '{name}', so nothing warns of unusual "
            "images. Run 'medseg calibrate' again."
        )
    return ImageJudge(known)


def judge_volume(image: Volume, model: Model, networks: Networks) -> Judged | None:
    """What is to be said of an image ``(C, Z, Y, X)`` before anybody believes its prediction; None as ``judge_of``.

    ``Judged.warning`` is a sentence where it is unlike the held-out Cases. Raises what ``judge_of`` raises, and
    DatasetError for another number of channels.
    """
    judge = judge_of(model, networks)
    return None if judge is None else judge(PreparedImage(image, ()), networks)


def observe_image(prepared: PreparedImage, member: Networks) -> Seen:
    """What a held-out Case adds, by the only fold of ``member``, which has not seen it."""
    first = first_stage(member)
    image, grid = prepared.prepare(first)
    (fold,), (network,) = first.folds, first.networks
    assert isinstance(fold, int)  # the full one has seen every Case
    profile = profile_of(image, grid, _channels(first))
    if isinstance(network, OnnxNetwork):
        return Seen(fold, profile, None, None)
    layer, features = features_of(network, image, first.configuration.patch_size)
    return Seen(fold, profile, layer, features)


def first_stage(model: Networks) -> Networks:
    """The networks that see the image alone: in a cascade those that come first."""
    while model.previous is not None:
        model = model.previous
    return model


def _channels(model: Networks) -> list[str]:
    return [channel.name for channel in model.plan.channels]
