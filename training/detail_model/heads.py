"""Dense supervision of the tower: the small model's, and which patch stands for an item."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenprune.reference.detail_questions import PLACES
from tokenprune.reference.detail_scene import MAX_DETAIL_ITEMS, MAX_GROUP
from tokenprune.reference.scene import KINDS
from training.detail_model.data import DetailBatch
from training.detail_model.sides import SIDES
from training.reference_model.choose import gather_tokens
from training.reference_model.data import IGNORE
from training.reference_model.forward import TowerOutput
from training.reference_model.heads import Heads, plain_norm, tower_loss
from training.reference_model.model import WIDTH


class DetailHeads(Heads):
    """The small model's read-outs, those of anchors and neighbours at every patch, and numbers."""

    def __init__(self) -> None:
        super().__init__(MAX_DETAIL_ITEMS)
        self.anchor = nn.Linear(WIDTH, 1)
        self.beside = nn.Linear(WIDTH, SIDES * (len(KINDS) + 1))
        self.places = nn.Linear(WIDTH, 2 * len(PLACES))
        self.numbers = nn.Linear(WIDTH, len(KINDS))


def beside_loss(
    heads: DetailHeads, out: TowerOutput, batch: DetailBatch, weight: float
) -> tuple[Tensor, float]:
    """Loss of naming what stands on every side of an item, and the accuracy where something does.

    Args:
        heads: the read-outs.
        out: what the tower gives.
        batch: the targets.
        weight: of a neighbour; that of an empty side is one.
    """
    index = out.index.unsqueeze(-1).expand(-1, -1, SIDES)
    target = batch.beside.gather(1, index).flatten(0, 2)
    read = heads.beside(plain_norm(out.patches)).reshape(len(target), -1)
    known, there = target != IGNORE, (target != IGNORE) & (target != len(KINDS))
    each = F.cross_entropy(read, target, ignore_index=IGNORE, reduction="none")
    loss = (each * torch.where(there, weight, 1.0)).sum() / known.sum()
    return loss, float((read.argmax(-1) == target)[there].float().mean())


def places_loss(heads: DetailHeads, out: TowerOutput, batch: DetailBatch) -> tuple[Tensor, float]:
    """Loss of naming the column and the row of a patch's item, and the accuracy."""
    owned = batch.owner.gather(1, out.index) >= 0
    centre = gather_tokens(batch.centre, out.index)[owned]
    target = (centre * len(PLACES)).long().clamp(max=len(PLACES) - 1).flatten()
    read = heads.places(plain_norm(out.patches)[owned]).reshape(len(target), -1)
    return F.cross_entropy(read, target), float((read.argmax(-1) == target).float().mean())


def detail_loss(
    heads: DetailHeads,
    out: TowerOutput,
    batch: DetailBatch,
    beside_weight: float = 1.0,
    places_weight: float = 0.0,
) -> tuple[Tensor, dict[str, float]]:
    """Loss of all read-outs, and accuracies on items."""
    loss, scores = tower_loss(heads, out, batch)
    anchor = batch.anchor.gather(1, out.index)
    said = heads.anchor(plain_norm(out.patches)).squeeze(-1)
    each = F.binary_cross_entropy_with_logits(said, anchor.float(), reduction="none")
    owned = batch.owner.gather(1, out.index) >= 0
    # beside an item it is hard to tell, elsewhere nothing is to be learned
    weight = torch.where(owned, 1.0, 0.1)
    loss = loss + (each * weight).sum() / weight.sum()
    numbers = heads.numbers(plain_norm(out.cls)) / MAX_GROUP
    loss = loss + 2.0 * F.mse_loss(numbers, batch.numbers / MAX_GROUP)
    beside, scores["patch_beside"] = beside_loss(heads, out, batch, beside_weight)
    loss = loss + beside
    if places_weight:
        places, scores["patch_places"] = places_loss(heads, out, batch)
        loss = loss + places_weight * places
    scores["patch_anchor"] = float(((said > 0) == anchor)[owned].float().mean())
    return loss, scores
