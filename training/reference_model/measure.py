"""Answering the held-out set under a choice of visual tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Generator, Tensor

from tokenprune.reference import iter_heldout
from tokenprune.reference.heldout import HELDOUT_SEED
from training.reference_model.choose import everything, gather_tokens, top_sorted
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
from training.shared.asking import Asked, Asking, Sample


class PictureSample(Sample, Protocol):
    """A held-out question about a drawn picture."""

    @property
    def image(self) -> Image:
        """The picture."""

    @property
    def image_id(self) -> int:
        """Number of the picture; questions of one picture follow each other."""

    @property
    def cover(self) -> NDArray[np.float32]:
        """Share of every patch that each item covers, `[items, G * G]`."""


@dataclass(frozen=True, kw_only=True)
class Page(Asked):
    """Some held-out images with all their questions.

    Attributes:
        images: `[B, 8 * G, 8 * G, 3]` uint8.
        oracle: `[B, G * G]` priority of a chooser that sees the truth: the patch that an item
            covers most comes first, items in turn, background last.
    """

    images: Tensor
    oracle: Tensor

    @property
    def patches(self) -> int:
        """Patches of a picture."""
        return self.oracle.shape[1]

    def everything(self) -> Tensor:
        """All patches, `[B, G * G]`."""
        return everything(len(self.images), self.patches)


def oracle_priority(cover: Tensor, least: float = OWN_COVER) -> Tensor:
    """Round-robin priority `[G * G]` of the patches that items own, by `cover [items, G * G]`.

    Args:
        cover: share of every patch that each item covers.
        least: cover from which on an item owns a patch.
    """
    priority = torch.zeros(cover.shape[1])
    owner = torch.where(cover.amax(0) >= least, cover.argmax(0), -1)
    for item in range(len(cover)):
        mine = cover[item].masked_fill(owner != item, 0.0)
        order = mine.argsort(descending=True)[: int((mine > 0).sum())]
        priority[order] = 2.0 - torch.arange(len(order)) / len(priority)
    return priority


def make_page(
    group: Sequence[Sequence[PictureSample]], asking: Asking, least: float = OWN_COVER
) -> Page:
    """Put the samples of several pictures together.

    Args:
        group: the samples of each picture.
        asking: how their questions become tensors.
        least: cover from which on an item owns a patch.
    """
    covers = [torch.from_numpy(samples[0].cover) for samples in group]
    return Page(
        images=torch.from_numpy(np.stack([np.asarray(samples[0].image) for samples in group])),
        oracle=torch.stack([oracle_priority(cover, least) for cover in covers]),
        **asking.fields(group),
    )


def in_pages(samples: Iterable[PictureSample], size: int) -> Iterator[list[list[PictureSample]]]:
    """The samples of each picture, `size` pictures at a time."""
    group: list[list[PictureSample]] = []
    for _, same in groupby(samples, key=lambda sample: sample.image_id):
        group.append(list(same))
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def pages(images: int, seed: int = HELDOUT_SEED, size: int = 50) -> Iterator[Page]:
    """The held-out set, `size` images at a time."""
    for group in in_pages(iter_heldout(images, seed), size):
        yield make_page(group, ASKING)


@torch.no_grad()
def see(
    w: Weights, page: Page, blank: bool = False, maps: Mapping[int, TokenMap] | None = None
) -> TowerOutput:
    """Tower output on all patches of a page; `blank` shows mid-grey, `maps` thin tokens inside."""
    images = torch.full_like(page.images, 128) if blank else page.images
    pixels = patchify(normalise(images))
    return tower_forward(w, pixels, page.everything(), maps, last_block=False)


@torch.no_grad()
def ask(w: Weights, page: Page, seen: TowerOutput, keep: Tensor, compact: bool) -> Tensor:
    """Which questions `[B, Q]` are answered right from the tokens `keep [B, M]`."""
    visual = project(w, gather_tokens(seen.patches, keep))
    rows, count = keep.shape
    original = 1 + seen.index.gather(1, keep)
    position = torch.arange(1, 1 + count).expand(rows, -1) if compact else original
    start = torch.full((rows,), 1 + (count if compact else page.patches))
    hidden = answer_questions(w, visual, position, page.words, start)
    at = page.answer_at[..., None, None].expand(-1, -1, -1, hidden.shape[-1])
    return logits(w, hidden.gather(2, at).squeeze(2)).argmax(-1) == page.answer


Chooser = Callable[[Page, TowerOutput, int, Generator], Tensor]


def choose_random(page: Page, seen: TowerOutput, count: int, generator: Generator) -> Tensor:
    """Any patches."""
    return top_sorted(torch.rand(page.oracle.shape, generator=generator), count)


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
