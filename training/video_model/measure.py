"""Answering held-out clips under a choice of frames and tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np
import torch
from torch import Generator, Tensor

from tokenprune.reference import FRAMES, ClipSample, iter_heldout_clips
from tokenprune.reference.scene import CANVAS
from training.reference_model.choose import gather_tokens, top_sorted
from training.reference_model.data import normalise
from training.reference_model.forward import (
    TowerOutput,
    Weights,
    logits,
    patchify,
    tower_forward,
)
from training.shared.asking import Asked
from training.video_model.data import ASKING, whole_index
from training.video_model.forward import answer_clips

#: How the features `[B, 8, 196, D]` of clips are changed: what other frames would have given.
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class ClipPage(Asked):
    """Some clips with all their questions.

    Attributes:
        frames: `[B, 8, 112, 112, 3]` uint8.
    """

    frames: Tensor


def clip_pages(clips: int, size: int = 8) -> Iterator[ClipPage]:
    """The held-out clips, `size` at a time."""
    by_clip = (list(mine) for _, mine in groupby(iter_heldout_clips(clips), lambda s: s.image_id))
    while page := list(islice(by_clip, size)):
        yield make_page(page)


def make_page(group: Sequence[Sequence[ClipSample]]) -> ClipPage:
    """Put the samples of several clips together."""
    frames = [np.stack([np.asarray(frame) for frame in samples[0].frames]) for samples in group]
    return ClipPage(frames=torch.from_numpy(np.stack(frames)), **ASKING.fields(group))


@torch.no_grad()
def see(w: Weights, frames: Tensor) -> TowerOutput:
    """Tower output on all patches of clips, `[B * 8, 196, D]`."""
    pixels = patchify(normalise(frames.flatten(0, 1)))
    return tower_forward(w, pixels, whole_index(len(pixels)), last_block=False)


@torch.no_grad()
def say(w: Weights, page: ClipPage, patches: Tensor, keep: Tensor, compact: bool) -> Tensor:
    """Word ids `[B, Q]` of the answers from the rows `keep [B * 8, M]` of `[B * 8, 196, D]`."""
    rows = len(page.frames)
    kept = gather_tokens(patches, keep).view(rows, FRAMES, keep.shape[1], -1)
    hidden = answer_clips(w, kept, keep.view(rows, FRAMES, -1), page.words, compact)
    at = page.answer_at[..., None, None].expand(-1, -1, -1, hidden.shape[-1])
    return logits(w, hidden.gather(2, at).squeeze(2)).argmax(-1)


def choose_random(seen: TowerOutput, count: int, generator: Generator) -> Tensor:
    """Any patches of every frame."""
    return top_sorted(torch.rand(seen.index.shape, generator=generator), count)


def choose_column(seen: TowerOutput, count: int, generator: Generator) -> Tensor:
    """The patches of every frame that receive most attention in the last block used."""
    return top_sorted(seen.attention[..., 1:].mean((1, 2)), count)


CHOOSERS = {"random": choose_random, "column-mean": choose_column}


def repeated(patches: Tensor) -> Tensor:
    """The fifth frame eight times."""
    return patches[:, 4:5].expand_as(patches)


def shuffled(patches: Tensor) -> Tensor:
    """The frames in a fixed other order."""
    return patches[:, [3, 6, 0, 5, 2, 7, 1, 4]]


CHANGES: dict[str, Change] = {"one frame 8 times": repeated, "frames shuffled": shuffled}


def blank(w: Weights) -> Tensor:
    """Features `[196, D]` of a mid-grey frame."""
    grey = torch.full((1, 1, CANVAS, CANVAS, 3), 128, dtype=torch.uint8)
    return see(w, grey).patches[0]


def all_patches(page: ClipPage) -> Tensor:
    """Keep everything, `[B * 8, 196]`."""
    return whole_index(len(page.frames) * FRAMES)
