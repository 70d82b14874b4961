"""The fixed held-out detail pictures: made from a seed whenever they are needed, stored nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokenprune.reference.detail_questions import ask_detail
from tokenprune.reference.detail_render import detail_textures, render_detail
from tokenprune.reference.detail_scene import DetailScene, sample_detail_scene

DETAIL_HELDOUT_SEED = 31_415
HELDOUT_DETAILS = 200


@dataclass(frozen=True)
class DetailSample:
    """One held-out question with its picture.

    Attributes:
        image: the picture, RGB, 160 x 160.
        question: the question without any image placeholder.
        answer: the one-word answer.
        type: the question type, one of `tokenprune.reference.DETAIL_TYPES`.
        image_id: index of the picture; questions of one picture follow each other.
        scene: what the picture shows.
        cover: `[items, 400]`, the share of every patch that each item covers.
    """

    image: Image.Image
    question: str
    answer: str
    type: str
    image_id: int
    scene: DetailScene
    cover: NDArray[np.float32]


def iter_heldout_details(
    images: int = HELDOUT_DETAILS, seed: int = DETAIL_HELDOUT_SEED
) -> Iterator[DetailSample]:
    """Yield the samples picture by picture; picture `i` does not depend on how many are made."""
    textures = detail_textures(seed)
    for image_id in range(images):
        rng = np.random.default_rng([seed, 5, image_id])
        scene = sample_detail_scene(rng)
        questions = ask_detail(scene, rng)
        drawn = render_detail(scene, rng, textures)
        picture = Image.fromarray(drawn.image)
        for question in questions:
            yield DetailSample(
                image=picture,
                question=question.text,
                answer=question.answer,
                type=question.kind,
                image_id=image_id,
                scene=scene,
                cover=drawn.cover,
            )


def heldout_details(limit: int | None = None) -> list[DetailSample]:
    """The held-out detail questions, or the first `limit` of them."""
    return list(islice(iter_heldout_details(), limit))
