"""When each token of a prompt leaves the LLM, from the trace of a pruned call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.errors import ReductionError
from tokenprune.interface.trace import ImageTrace
from tokenprune.lab.verify.taps import Answer

NEVER = 1 << 30


@dataclass(frozen=True)
class Fate:
    """When the tokens of one prompt leave.

    Attributes:
        leaves: `[T]` layer from which on a token is hidden; `NEVER` for those that stay.
        trimmed: once the prompt is through, what left in front of this layer or an earlier one is
            hidden in all layers: caches are trimmed.
    """

    leaves: Tensor
    trimmed: int = -1

    @property
    def stays(self) -> Tensor:
        """`[T]` True for the tokens that go through all layers."""
        return self.leaves == NEVER

    def hidden(self, layer: int, *, decoding: bool = False) -> Tensor:
        """`[T]` True for the tokens that `layer` doesn't see."""
        return self.leaves <= (max(layer, self.trimmed) if decoding else layer)


def fate_of(
    visual: Tensor,
    images: Sequence[ImageTrace],
    answers: Sequence[Answer],
    prefix: int,
    trimmed: int,
) -> Fate:
    """Read when each token leaves.

    Args:
        visual: `[T]` True for placeholders of one prompt without padding.
        images: what became of its images.
        answers: what the strategies answered, for text tokens, which the trace doesn't hold.
        prefix: tokens in front of the patches of every image that the LLM sees too.
        trimmed: see `Fate`.

    Raises:
        ReductionError: the trace is of images other than those of the prompt.
    """
    places = visual.nonzero()[:, 0]
    wanted = sum(prefix + image.patches for image in images)
    if wanted != len(places):
        raise ReductionError(
            f"the trace holds {wanted} visual tokens and the prompt {len(places)} placeholders.",
            where="trace",
            remedy="Every placeholder must stand for one token of an image.",
        )
    leaves = torch.full(visual.shape, NEVER)
    start = 0
    for image in images:
        start += prefix
        mine = places[start : start + image.patches]
        start += image.patches
        _mark(leaves, mine.cpu(), image)
    for answer in answers:
        if answer.kind == "text":
            gone = answer.gone().cpu()
            leaves[gone] = leaves[gone].clamp(max=answer.site.layer)
    return Fate(leaves, trimmed)


def _mark(leaves: Tensor, places: Tensor, image: ImageTrace) -> None:
    """Note when the patches of one image leave, whose places are given."""
    early = [step for step in image.steps if step.site.stage != "decoder"]
    if early:  # the last one counts: a strategy may restore what it dropped
        leaves[places[~_kept(early[-1].anchor, image.patches)]] = 0
    for step in image.steps:
        if step.site.stage == "decoder":
            gone = places[~_kept(step.anchor, image.patches)]
            leaves[gone] = leaves[gone].clamp(max=step.site.layer)


def _kept(anchor: Tensor, patches: int) -> Tensor:
    return torch.zeros(patches, dtype=torch.bool).index_fill(0, anchor, True)
