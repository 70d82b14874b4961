"""The fixed held-out evaluation set: made from a seed whenever it is needed, stored nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokenprune.reference.questions import ask_each
from tokenprune.reference.render import Textures, render
from tokenprune.reference.scene import Scene, sample_scene

HELDOUT_SEED = 90_210
HELDOUT_IMAGES = 500


@dataclass(frozen=True)
class Sample:
    """One held-out question with its image.

    Attributes:
        image: the picture, RGB, 112 x 112.
        question: the question without any image placeholder.
        answer: the one-word answer.
        type: the question type, one of `tokenprune.reference.TYPES`.
        image_id: index of the image; questions of one image follow each other.
        scene: what the image shows.
        cover: `[items, 196]`, the share of every patch that each item covers.
    """

    image: Image.Image
    question: str
    answer: str
    type: str
    image_id: int
    scene: Scene
    cover: NDArray[np.float32]


def iter_heldout(images: int = HELDOUT_IMAGES, seed: int = HELDOUT_SEED) -> Iterator[Sample]:
    """Yield the samples image by image; image `i` does not depend on how many are made."""
    textures = Textures(seed)
    for image_id in range(images):
        rng = np.random.default_rng([seed, 1, image_id])
        scene = sample_scene(rng)
        questions = ask_each(scene, rng)
        drawn = render(scene, rng, textures)
        picture = Image.fromarray(drawn.image)
        for question in questions:
            yield Sample(
                image=picture,
                question=question.text,
                answer=question.answer,
                type=question.kind,
                image_id=image_id,
                scene=scene,
                cover=drawn.cover,
            )


def heldout_samples(limit: int | None = None) -> list[Sample]:
    """The held-out set, or its first `limit` questions."""
    return list(islice(iter_heldout(), limit))
