"""Make nnunet_losses.json: nnU-Net's own losses (nnunetv2==2.8.1) and how large their gradients are.

Run in an environment of its own that has nnunetv2, from this folder: ``python make_nnunet_losses.py``. With an ignore
label nnU-Net sums binary cross-entropy over regions instead of averaging it; it is weighted here so that it is a mean.
"""

import json
from pathlib import Path

import torch
from nnunet_cases import REGIONS_OF_LOSS, loss_batch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss


def loss_of(regions: bool, ignoring: bool, batch_dice: bool) -> tuple[float, float]:
    """The loss, and the sum of the squares of its gradient."""
    values, truth = loss_batch(regions, ignoring)
    logits, labels = torch.from_numpy(values).requires_grad_(), torch.from_numpy(truth)[:, None]
    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": regions, "ddp": False}
    if regions:
        masks = [torch.isin(labels[:, 0], torch.tensor(joined)) for joined in REGIONS_OF_LOSS]
        target = torch.stack([*masks, labels[:, 0] == 4] if ignoring else masks, 1)
        weight = 1 / len(REGIONS_OF_LOSS) if ignoring else 1
        loss = DC_and_BCE_loss({}, dice, weight, 1, ignoring, MemoryEfficientSoftDiceLoss)(logits, target)
    else:
        ignore = 4 if ignoring else None
        loss = DC_and_CE_loss(dice, {}, 1, 1, ignore, MemoryEfficientSoftDiceLoss)(logits, labels)
    loss.backward()
    return loss.item(), float((logits.grad**2).sum())


def main() -> None:
    found = {}
    for regions in (False, True):
        for ignoring in (False, True):
            for batch_dice in (False, True):
                name = f"{'regions' if regions else 'structures'}{', ignoring' if ignoring else ''}, {batch_dice}"
                found[name] = loss_of(regions, ignoring, batch_dice)
    Path(__file__).with_name("nnunet_losses.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
