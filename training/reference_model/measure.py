"""Answering the held-out set under a choice of visual tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Generator, Tensor

from tokenprune.reference import Sample, iter_heldout
from tokenprune.reference.heldout import HELDOUT_SEED
from training.reference_model.choose import gather_tokens, top_sorted
from training.reference_model.data import ASKING, OWN_COVER, normalise
from training.reference_model.forward import (
    TokenMap,
    TowerOutput,
    Weights,
    answer_questions,
    logits,
    patchify,
    project,
    tower_forward,
)
from training.reference_model.model import PATCHES
from training.shared.asking import Asked


@dataclass(frozen=True, kw_only=True)
class Page(Asked):
    """Some held-out images with all their questions.

    Attributes:
        images: `[B, 112, 112, 3]` uint8.
        oracle: `[B, 196]` priority of a chooser that sees the truth: the patch that an item
            covers most comes first, items in turn, background last.
    """

    images: Tensor
    oracle: Tensor


def oracle_priority(sample: Sample) -> Tensor:
    """Round-robin priority `[196]` of the patches that items own."""
    priority = torch.zeros(PATCHES)
    cover = torch.from_numpy(sample.cover)
    owner = torch.where(cover.amax(0) >= OWN_COVER, cover.argmax(0), -1)
    for item in range(len(cover)):
        mine = cover[item].masked_fill(owner != item, 0.0)
        order = mine.argsort(descending=True)[: int((mine > 0).sum())]
        priority[order] = 2.0 - torch.arange(len(order)) / PATCHES
    return priority


def make_page(group: Sequence[Sequence[Sample]]) -> Page:
    """Put the samples of several images together."""
    return Page(
        images=torch.from_numpy(np.stack([np.asarray(samples[0].image) for samples in group])),
        oracle=torch.stack([oracle_priority(samples[0]) for samples in group]),
        **ASKING.fields(group),
    )


def pages(images: int, seed: int = HELDOUT_SEED, size: int = 50) -> Iterator[Page]:
    """The held-out set, `size` images at a time."""
    group: list[list[Sample]] = []
    for _, samples in groupby(iter_heldout(images, seed), key=lambda sample: sample.image_id):
        group.append(list(samples))
        if len(group) == size:
            yield make_page(group)
            group = []
    if group:
        yield make_page(group)


@torch.no_grad()
def see(
    w: Weights, page: Page, blank: bool = False, maps: Mapping[int, TokenMap] | None = None
) -> TowerOutput:
    """Tower output on all patches of a page; `blank` shows mid-grey, `maps` thin tokens inside."""
    images = torch.full_like(page.images, 128) if blank else page.images
    index = torch.arange(PATCHES).expand(len(images), -1)
    return tower_forward(w, patchify(normalise(images)), index, maps, last_block=False)


@torch.no_grad()
def ask(w: Weights, page: Page, seen: TowerOutput, keep: Tensor, compact: bool) -> Tensor:
    """Which questions `[B, Q]` are answered right from the tokens `keep [B, M]`."""
    visual = project(w, gather_tokens(seen.patches, keep))
    rows, count = keep.shape
    original = 1 + seen.index.gather(1, keep)
    position = torch.arange(1, 1 + count).expand(rows, -1) if compact else original
    start = torch.full((rows,), 1 + (count if compact else PATCHES))
    hidden = answer_questions(w, visual, position, page.words, start)
    at = page.answer_at[..., None, None].expand(-1, -1, -1, hidden.shape[-1])
    return logits(w, hidden.gather(2, at).squeeze(2)).argmax(-1) == page.answer


Chooser = Callable[[Page, TowerOutput, int, Generator], Tensor]


def choose_random(page: Page, seen: TowerOutput, count: int, generator: Generator) -> Tensor:
    """Any patches."""
    return top_sorted(torch.rand(len(page.images), PATCHES, generator=generator), count)


def choose_cls(page: Page, seen: TowerOutput, count: int, generator: Generator) -> Tensor:
    """The patches that CLS attends to most, in the last block used."""
    return top_sorted(seen.attention[:, :, 0, 1:].mean(1), count)


def choose_column(page: Page, seen: TowerOutput, count: int, generator: Generator) -> Tensor:
    """The patches that receive most attention from all tokens, in the last block used."""
    return top_sorted(seen.attention[..., 1:].mean((1, 2)), count)


def choose_oracle(page: Page, seen: TowerOutput, count: int, generator: Generator) -> Tensor:
    """The patches of the items by ground truth, then random background."""
    noise = torch.rand(page.oracle.shape, generator=generator)
    return top_sorted(page.oracle + noise * (page.oracle == 0), count)


CHOOSERS: dict[str, Chooser] = {
    "random": choose_random,
    "cls-attention": choose_cls,
    "column-mean": choose_column,
    "object-oracle": choose_oracle,
}
