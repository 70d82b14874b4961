"""The fixed held-out clips: made from a seed whenever they are needed, stored nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokenprune.reference.clip import ClipScene, sample_clip
from tokenprune.reference.clip_questions import ask_clip
from tokenprune.reference.clip_render import render_clip
from tokenprune.reference.questions import SceneQuestion
from tokenprune.reference.render import Textures

CLIP_HELDOUT_SEED = 86_420
HELDOUT_CLIPS = 300


@dataclass(frozen=True)
class ClipSample:
    """One held-out question with its clip.

    Attributes:
        frames: the 8 pictures in order, RGB, 112 x 112.
        question: the question without any image placeholder.
        answer: the one-word answer.
        type: the question type, one of `tokenprune.reference.CLIP_TYPES`.
        image_id: index of the clip; questions of one clip follow each other.
        clip: what the frames show.
        cover: `[8, objects, 196]`, the share of every patch that each object covers.
    """

    frames: tuple[Image.Image, ...]
    question: str
    answer: str
    type: str
    image_id: int
    clip: ClipScene
    cover: NDArray[np.float32]


def iter_heldout_clips(
    clips: int = HELDOUT_CLIPS, seed: int = CLIP_HELDOUT_SEED
) -> Iterator[ClipSample]:
    """Yield the samples clip by clip; clip `i` does not depend on how many are made."""
    textures = Textures(seed)
    for clip_id in range(clips):
        clip, questions, rng = _draw(clip_id, seed)
        drawn = render_clip(clip, rng, textures)
        frames = tuple(Image.fromarray(frame) for frame in drawn.frames)
        for question in questions:
            yield ClipSample(
                frames=frames,
                question=question.text,
                answer=question.answer,
                type=question.kind,
                image_id=clip_id,
                clip=clip,
                cover=drawn.cover,
            )


def _draw(clip_id: int, seed: int) -> tuple[ClipScene, list[SceneQuestion], np.random.Generator]:
    """Clip and questions, and the generator with which to go on."""
    rng = np.random.default_rng([seed, 4, clip_id])
    clip = sample_clip(rng)
    return clip, ask_clip(clip, rng), rng


def heldout_questions(clip_id: int, seed: int = CLIP_HELDOUT_SEED) -> list[SceneQuestion]:
    """The questions of one held-out clip, without drawing its frames."""
    return _draw(clip_id, seed)[1]


def heldout_clips(limit: int | None = None) -> list[ClipSample]:
    """The held-out clip questions, or the first `limit` of them."""
    return list(islice(iter_heldout_clips(), limit))
