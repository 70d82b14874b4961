"""When each token of a prompt leaves the LLM, from the trace of a pruned call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.interface.trace import ImageTrace
from tokenprune.testing.plain.standing import Stand
from tokenprune.testing.plain.taps import Answer

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
    length: int,
    stands: Sequence[Stand],
    images: Sequence[ImageTrace],
    answers: Sequence[Answer],
    trimmed: int,
) -> Fate:
    """Read when each token leaves.

    Args:
        length: tokens T of one prompt without padding.
        stands: where its images stand in it.
        images: what became of them.
        answers: what the strategies answered, for text tokens, which the trace doesn't hold.
        trimmed: see `Fate`.
    """
    leaves = torch.full((length,), NEVER)
    for stand, image in zip(stands, images, strict=True):
        _mark(leaves, stand.units, image)
        for separator, line in stand.separators.items():
            leaves[separator] = leaves[line].max()
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
