"""Dense supervision of the tower: linear heads on its features, thrown away after training."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenprune.reference.scene import COLOURS, KINDS, MAX_ITEMS
from training.reference_model.choose import gather_tokens
from training.reference_model.data import IGNORE, Batch
from training.reference_model.forward import TowerOutput
from training.reference_model.model import WIDTH

_PATCH_OUT = {
    "kind": len(KINDS) + 1,
    "colour": len(COLOURS) + 1,
    "offset": 2,
    "centre": 2,
    "own": 2,
}
_IMAGE_OUT = (len(KINDS), len(COLOURS), len(KINDS) * len(COLOURS))
_OFFSET_SCALE = 8.0


class Heads(nn.Module):
    """Linear read-outs of patch tokens and of the CLS token at two depths.

    Args:
        most: items that a picture can show.
    """

    def __init__(self, most: int = MAX_ITEMS) -> None:
        super().__init__()
        self.image_out = (*_IMAGE_OUT, most + 1)
        self.patch = nn.Linear(WIDTH, sum(_PATCH_OUT.values()))
        self.image = nn.Linear(WIDTH, sum(self.image_out))
        self.pooled = nn.Linear(WIDTH, sum(self.image_out))


def plain_norm(x: Tensor) -> Tensor:
    """Tokens `[..., D]` of mean zero and deviation one, in fp32."""
    return F.layer_norm(x.float(), (x.shape[-1],))


def _own_position(index: Tensor, grid: int) -> Tensor:
    """Centre of every patch in 0..1, `[B, M, 2]`, by its number in a grid of so many a side."""
    return torch.stack([index % grid, index // grid], -1).float().add(0.5) / grid


def patch_loss(heads: Heads, out: TowerOutput, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Loss of the patch read-outs on the tokens that are there, and accuracies on items."""
    parts = torch.split(heads.patch(plain_norm(out.patches)), list(_PATCH_OUT.values()), -1)
    read = dict(zip(_PATCH_OUT, parts, strict=True))
    kind, colour = batch.kind.gather(1, out.index), batch.colour.gather(1, out.index)
    owned = batch.owner.gather(1, out.index) >= 0
    grid = math.isqrt(batch.kind.shape[1])
    own, centre = _own_position(out.index, grid), gather_tokens(batch.centre, out.index)
    # background is most of the image but a small part of the question
    weight = torch.where(owned, 1.0, 0.25) * (kind != IGNORE)
    loss = torch.zeros(())
    for name, target in (("kind", kind), ("colour", colour)):
        each = F.cross_entropy(read[name].transpose(1, 2), target, reduction="none")
        loss = loss + (each * weight).sum() / weight.sum()
    offset = ((centre - own) * _OFFSET_SCALE)[owned]
    loss = loss + 0.5 * F.smooth_l1_loss(read["offset"][owned], offset)
    loss = loss + 4.0 * F.mse_loss(read["centre"][owned], centre[owned])
    loss = loss + 2.0 * F.mse_loss(read["own"], own)
    with torch.no_grad():
        right = {n: (read[n].argmax(-1) == t) for n, t in (("kind", kind), ("colour", colour))}
        digit = owned & (kind >= len(KINDS) - 10)
        scores = {
            "patch_shape": float(right["kind"][owned & ~digit].float().mean()),
            "patch_digit": float(right["kind"][digit].float().mean()) if digit.any() else 0.0,
            "patch_colour": float(right["colour"][owned].float().mean()),
            "patch_ground": float(right["kind"][kind == len(KINDS)].float().mean()),
        }
    return loss, scores


def _image_loss(heads: Heads, read: Tensor, batch: Batch) -> Tensor:
    kind, colour, pair, items = torch.split(read, list(heads.image_out), -1)
    loss = F.binary_cross_entropy_with_logits(kind, batch.has_kind) * 3.0
    loss = loss + F.binary_cross_entropy_with_logits(colour, batch.has_colour) * 3.0
    loss = loss + F.binary_cross_entropy_with_logits(pair, batch.has_pair) * 12.0
    return loss + 0.5 * F.cross_entropy(items, batch.items)


def tower_loss(heads: Heads, out: TowerOutput, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Patch and image read-outs together."""
    loss, scores = patch_loss(heads, out, batch)
    whole = _image_loss(heads, heads.image(plain_norm(out.cls)), batch)
    whole = whole + _image_loss(heads, heads.pooled(out.pooled.float()), batch)
    scores["cls"] = float(whole.detach())
    return loss + 0.5 * whole, scores
