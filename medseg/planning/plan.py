"""The Plan: the one document that says how a Dataset is prepared, trained and predicted, each value with its reason.

Knows nothing of how the numbers are found; that is ``medseg.planning.rules``. In ``plan.yaml`` a reason stands behind
its value as a comment, and is read back from there; a Plan edited by hand is validated like any other.
All triples are in (z, y, x) of the network's axes: the Plan's orientation, then ``axis_order``.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from medseg.arrays import Spacing, Triple
from medseg.documents import Document, Record, dump_yaml
from medseg.errors import MedsegError, PlanError
from medseg.planning.class_weights import ClassWeighting
from medseg.planning.losses import Loss
from medseg.settings import Seconds

ConfigurationName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w-]*$")]
"""2d, 3d_fullres, 3d_lowres or 3d_cascade_fullres; imported models may have others."""


AttentionName = Literal["none", "se", "cbam"]
FACTORS = 3
"""Ways in which head=learned may be otherwise; Monteiro et al. have 10 and draw them at random. A choice, not measured:
each is one more set of logits, and the loss sees 2 to this power of answers."""


class NetworkPlan(Record):
    """The network's topology; the first stage is the finest."""

    name: str = "unet"
    """Which network; ``medseg info`` lists them."""
    features: tuple[PositiveInt, ...]
    """Channels of each encoder stage."""
    strides: tuple[Triple, ...]
    """Down-sampling on entering each stage; the first is 1,1,1."""
    kernels: tuple[Triple, ...]
    """Convolution kernel of each stage; in 2D the first number is 1."""
    encoder_convolutions: tuple[PositiveInt, ...]
    """Convolutions (or blocks) per encoder stage."""
    decoder_convolutions: tuple[PositiveInt, ...]
    """Convolutions per decoder stage, from the coarsest to the finest."""
    deep_supervision: bool = True
    """A prediction head on every decoder stage, used in training only."""
    attention: AttentionName = "none"
    """Behind every stage of plain convolutions: se (squeeze-and-excitation) or cbam (convolutional block attention)."""
    head: Literal["plain", "evidential", "learned"] = "plain"
    """What the last layer gives: logits; evidence for each class (at least none), which the loss 'evidential' and
    'medseg predict uncertainty=evidential' need; or logits with what may be otherwise, for 'learned' of both."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the encoder's features that are dropped in training, but for the finest stage's; needed for
    'medseg predict uncertainty=dropout'."""

    @model_validator(mode="after")
    def _same_depth(self) -> Self:
        depth = len(self.features)
        for name in ("strides", "kernels", "encoder_convolutions"):
            if len(getattr(self, name)) != depth:
                raise ValueError(f"{name} has {len(getattr(self, name))} stages, but features has {depth}")
        if len(self.decoder_convolutions) != depth - 1:
            raise ValueError(f"decoder_convolutions needs {depth - 1} numbers, one less than there are stages")
        return self

    @property
    def logits_per_class(self) -> int:
        """How many numbers of each voxel a head gives for a class."""
        return 1 + FACTORS if self.head == "learned" else 1

    @property
    def divisor(self) -> Triple:
        """The patch size must be a multiple of this on each axis: the product of the strides."""
        z = y = x = 1
        for sz, sy, sx in self.strides:
            z, y, x = z * sz, y * sy, x * sx
        return z, y, x


class ConfigurationPlan(Record):
    """One way to train on the Dataset: 2d, 3d_fullres, 3d_lowres or 3d_cascade_fullres."""

    dimensions: Literal[2, 3]
    spacing: Spacing
    """mm to which every Case is resampled; in 2D the first number is only the Dataset's median."""
    median_shape: Triple
    """Median size of the prepared Cases, voxels."""
    patch_size: Triple
    """Voxels the network sees at once; in 2D the first number is 1."""
    batch_size: PositiveInt
    """Patches per iteration."""
    batch_dice: bool
    """Dice is computed over the whole batch (true) or per patch (false)."""
    previous: ConfigurationName | None = None
    """In a cascade: the configuration whose predictions are an additional input."""
    network: NetworkPlan

    @model_validator(mode="after")
    def _patch_fits_network(self) -> Self:
        for axis, (size, divisor) in enumerate(zip(self.patch_size, self.network.divisor, strict=True)):
            if size < 1 or size % divisor:
                near = max(round(size / divisor), 1) * divisor
                raise ValueError(
                    f"patch_size {list(self.patch_size)} does not fit the network: {size} on axis {'zyx'[axis]} is not "
                    f"a multiple of {divisor}; try {near}"
                )
        if self.dimensions == 2 and self.patch_size[0] != 1:
            raise ValueError(f"a 2D patch_size starts with 1, but is {list(self.patch_size)}")
        if self.dimensions == 2 and any(part[0] != 1 for part in (*self.network.strides, *self.network.kernels)):
            raise ValueError("in 2D every stride and kernel starts with 1")
        if self.patch_size == self.network.divisor:
            raise ValueError(
                f"patch_size {list(self.patch_size)} leaves a single voxel in the coarsest stage, which can't be "
                f"normalised; try {[2 * n if n > 1 else n for n in self.patch_size]}"
            )
        return self


class ChannelPlan(Record):
    """How one channel's intensities are normalised."""

    name: str
    normalisation: Literal["ct", "zscore", "none", "rescale_0_1", "rgb"]
    masked: bool = False
    """Z-score over the non-zero voxels only; the others stay 0."""
    clip_low: float | None = None
    clip_high: float | None = None
    mean: float | None = None
    std: float | None = None

    @model_validator(mode="after")
    def _ct_is_complete(self) -> Self:
        if self.normalisation == "ct" and None in (self.clip_low, self.clip_high, self.mean, self.std):
            raise ValueError("ct normalisation needs clip_low, clip_high, mean and std")
        return self


class OptimizerPlan(Record):
    """Which optimizer; what is left out follows from the budget when training starts."""

    name: Literal["auto", "sgd", "adamw"] = "auto"
    """auto: SGD from 25,000 iterations on, AdamW below (it learns from the first hundred iterations)."""
    learning_rate: PositiveFloat | None = None
    """At the start of the decay; by default 0.01 for SGD, for AdamW 0.002 (0.006 at 266 iterations or less)."""
    weight_decay: float | None = Field(default=None, ge=0)
    """By default 3e-5 for SGD and 0.01 for AdamW."""
    momentum: float = Field(default=0.99, ge=0, lt=1)
    """Nesterov momentum of SGD."""


class AugmentationPlan(Record):
    """Switches for each step: those of nnU-Net's recipe are on by default, the others off."""

    rotation: bool = True
    """Up to 30 degrees about each axis, or any angle in the plane of slices."""
    scaling: bool = True
    """By 0.7 to 1.4."""
    noise: bool = True
    """Gaussian noise."""
    blur: bool = True
    """Gaussian blur of up to a voxel."""
    brightness: bool = True
    """Intensities times 0.75 to 1.25."""
    contrast: bool = True
    """Stretched about their mean by 0.75 to 1.25."""
    low_resolution: bool = True
    """Coarser by up to a half and back."""
    gamma: bool = True
    """To the power 0.7 to 1.5, of the image or its negative."""
    mirror: bool = True
    """On the axes of mirror_axes, which never swap left and right structures."""
    mistakes: bool = True
    """In a cascade: the previous configuration's labels get mistakes, such as a missing part."""
    elastic: bool = False
    """Smooth random deformation."""
    bias_field: bool = False
    """Smooth change of brightness, as in MR."""
    motion: bool = False
    """The patient moves while an MR image is taken."""
    ghosting: bool = False
    """Ghosts along one axis, as in MR."""
    stain: bool = False
    """Other amounts of stain, for channels red, green and blue."""
    colour: bool = False
    """Other hue and saturation, for channels red, green and blue."""
    cutmix: bool = False
    """A box of another patch of the batch, with its labels."""


class SamplingPlan(Record):
    """Where patches come from, beyond nnU-Net's rule; everything is off by default."""

    balanced: bool = False
    """For patches centred on a structure, draw the structure first and then a case that holds it."""
    size_aware: bool = False
    """Draw small structures more often (by 1 / square root of volume), and each of their components alike."""
    copy_paste: float = Field(default=0.0, ge=0, le=1)
    """Share of the patches into which a component of one of the ``rare`` structures is copied from another case."""
    rare: tuple[str, ...] = ()
    """Structures (or regions) that are copied; by default all but those that are named by their side."""
    hard_patches: float = Field(default=0.0, ge=0, le=1)
    """Share of the patches that are taken again from where the network did worst in the last 100 iterations."""


class DistillationPlan(Record):
    """How much a training listens to teacher=MODEL, where one is named."""

    weight: float = Field(default=0.5, ge=0, le=1)
    """Share of the loss that the teacher's probabilities have; the labels have the rest."""
    temperature: PositiveFloat = 2.0
    """Logits of both are divided by it, so that small probabilities count."""
    features: float = Field(default=0.0, ge=0)
    """Weight of the difference between the two encoders' coarsest maps, which learned adapters translate; 0 is off."""


class TrainingPlan(Record):
    """The training recipe, shared by all configurations."""

    iterations: PositiveInt | None = None
    """Number of optimizer steps; wins over budget."""
    budget: Seconds | None = None
    """Time for training; a probe at the start turns it into a number of iterations."""
    early_stop: bool | None = None
    """End a training in which whole held-out cases no longer get better; by default where budget is an hour or more."""
    optimizer: OptimizerPlan = OptimizerPlan()
    loss: Loss = "dice_ce"
    """A loss, or a weighted sum such as [dice_ce,0.5*boundary]; 'medseg info' lists them."""
    class_weights: ClassWeighting = "none"
    """How much a voxel of each class counts in losses of voxels, by its frequency in the fingerprint: inverse, median
    (over cases that hold it), log (smoothed), effective (number of samples), or none: all alike."""
    foreground_share: float = Field(default=0.33, ge=0, le=1)
    """Share of a batch whose patches are centred on a random structure."""
    sampling: SamplingPlan = SamplingPlan()
    snapshots: PositiveInt = 1
    """Networks kept of one training, for 'medseg predict uncertainty=snapshots': the learning rate falls to 0 so many
    times, and starts anew in between."""
    gradient_clip: PositiveFloat = 12.0
    """Largest norm of the gradient."""
    mirror_axes: tuple[Literal[0, 1, 2], ...] = (0, 1, 2)
    """Network axes on which mirroring is allowed, in training and prediction."""
    augmentation: AugmentationPlan = AugmentationPlan()
    cascade_start: Literal["previous", "random"] = "previous"
    """What a cascade begins with: the weights of the configuration before it, of the same fold, or random ones."""
    distillation: DistillationPlan = DistillationPlan()
    seed: int = Field(default=1, ge=0)
    """Everything random follows from it."""


class Machine(Record):
    """What the Plan was made for, measured once and then read."""

    device: Literal["cpu", "cuda", "mps", "any"]
    memory_bytes: int | None = None
    """Memory of the device that the Plan may use."""
    processor: str | None = None
    """Its name, by which a later plan knows whether what was measured still holds."""
    flops_per_second: float | None = None
    """Measured speed of training a small network."""
    memory_factor: float | None = None
    """Measured memory of a training step over its estimate."""


class Plan(Document):
    """Everything that preparation, training and prediction need to know; written as ``plan.yaml``."""

    kind: ClassVar[str] = "plan"
    error: ClassVar[type[MedsegError]] = PlanError

    dataset: str
    preset: str
    orientation: Literal["canonical", "stored"]
    """canonical: every Case is turned to nearest RAS; stored: taken as the file has it."""
    axis_order: tuple[Literal[0, 1, 2], Literal[0, 1, 2], Literal[0, 1, 2]]
    """Order in which the oriented axes (z, y, x) go to the network; the coarsest comes first."""
    channels: tuple[ChannelPlan, ...]
    machine: Machine
    configurations: dict[ConfigurationName, ConfigurationPlan]
    default_configuration: ConfigurationName
    training: TrainingPlan
    fingerprint: str
    """Content hash of the Fingerprint it was made from."""
    reasons: dict[str, str] = Field(default_factory=dict, exclude=True, repr=False)
    """Why each value is as it is, by dotted key; comments in the file, and no part of the content."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if sorted(self.axis_order) != [0, 1, 2]:
            raise ValueError(f"axis_order should hold 0, 1 and 2 once each, but is {list(self.axis_order)}")
        if self.default_configuration not in self.configurations:
            raise ValueError(f"default_configuration '{self.default_configuration}' is not among the configurations")
        return self

    def configuration(self, name: str | None) -> tuple[ConfigurationName, ConfigurationPlan]:
        """The named configuration, or the default. Raises PlanError naming those that exist."""
        chosen = name or self.default_configuration
        for known, plan in self.configurations.items():
            if known == chosen:
                return known, plan
        raise PlanError(
            f"The plan has no configuration '{chosen}'; it has {', '.join(self.configurations)}. "
            "Choose one with configuration=NAME."
        )

    def to_yaml(self, content: dict[str, Any]) -> str:
        """YAML with each value's reason behind it as a comment."""
        lines = []
        for line, key in _keyed_lines(dump_yaml(content)):
            reason = self.reasons.get(key) if key else None
            lines.append(f"{line}  # {reason}" if reason else line)
        return "\n".join(lines) + "\n"

    @classmethod
    def from_text(cls, text: str, where: str) -> Self:
        """Validate the YAML, and take the comments behind the values as their reasons."""
        plan = super().from_text(text, where)
        reasons = {}
        for line, key in _keyed_lines(text):
            match = re.search(r"\s{2}# (.+)$", line)
            if key and match:
                reasons[key] = match[1]
        return plan.model_copy(update={"reasons": reasons})


def _keyed_lines(text: str) -> list[tuple[str, str | None]]:
    """Each line of block-style YAML with the dotted key that it sets; list items count as 0, 1, 2, ..."""
    found: list[tuple[str, str | None]] = []
    stack: list[tuple[int, str]] = []
    items: dict[tuple[str, ...], int] = {}
    for line in text.splitlines():
        body = line.lstrip(" ")
        indent = len(line) - len(body)
        key = None
        while body.startswith("- "):
            # An item of a list may stand at its parent's own indent; half a step keeps it below the parent.
            while stack and stack[-1][0] > indent + 0:
                stack.pop()
            if stack and stack[-1][0] == indent and stack[-1][1].isdigit():
                stack.pop()
            place = tuple(name for _, name in stack)
            items[place] = items.get(place, -1) + 1
            stack.append((indent, str(items[place])))
            body = body[2:]
            indent += 2
        match = re.match(r"([^\s:#][^:]*):(\s|$)", body)
        if match:
            while stack and stack[-1][0] >= indent:
                stack.pop()
            stack.append((indent, match[1].strip("'\"")))
            key = ".".join(name for _, name in stack)
        found.append((line, key))
    return found
