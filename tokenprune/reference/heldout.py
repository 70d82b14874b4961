"""The fixed held-out evaluation set: made from a seed whenever it is needed, stored nowhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokenprune.reference.questions import SceneQuestion, ask_each
from tokenprune.reference.render import Rendered, Textures, render
from tokenprune.reference.scene import Scene, sample_scene

HELDOUT_SEED = 90_210
HELDOUT_IMAGES = 500

SceneT = TypeVar("SceneT")


@dataclass(frozen=True)
class PictureSample(Generic[SceneT]):
    """One held-out question with its picture.

    Attributes:
        image: the picture, RGB.
        question: the question without any image placeholder.
        answer: the one-word answer.
        type: the question type.
        image_id: index of the picture; questions of one picture follow each other.
        scene: what the picture shows.
        cover: `[items, patches]`, the share of every patch that each item covers.
    """

    image: Image.Image
    question: str
    answer: str
    type: str
    image_id: int
    scene: SceneT
    cover: NDArray[np.float32]


class Sample(PictureSample[Scene]):
    """A question about a picture of 112 x 112, 196 patches; one of `tokenprune.reference.TYPES`."""


SampleT = TypeVar("SampleT", bound=PictureSample[Any])


def picture_samples(
    kind: type[SampleT],
    images: int,
    key: tuple[int, int],
    draw: Callable[[np.random.Generator], SceneT],
    ask: Callable[[SceneT, np.random.Generator], Sequence[SceneQuestion]],
    paint: Callable[[SceneT, np.random.Generator], Rendered],
) -> Iterator[SampleT]:
    """Yield the samples picture by picture; picture `i` does not depend on how many are made.

    Args:
        kind: of the samples.
        images: how many pictures.
        key: seeds the random numbers, together with the picture's index.
        draw: a scene.
        ask: the questions about it.
        paint: its picture.
    """
    for image_id in range(images):
        rng = np.random.default_rng([*key, image_id])
        scene = draw(rng)
        questions = ask(scene, rng)
        drawn = paint(scene, rng)
        picture = Image.fromarray(drawn.image)
        for question in questions:
            yield kind(
                image=picture,
                question=question.text,
                answer=question.answer,
                type=question.kind,
                image_id=image_id,
                scene=scene,
                cover=drawn.cover,
            )


def iter_heldout(images: int = HELDOUT_IMAGES, seed: int = HELDOUT_SEED) -> Iterator[Sample]:
    """Yield the samples image by image; image `i` does not depend on how many are made."""
    paint = partial(render, textures=Textures(seed))
    return picture_samples(Sample, images, (seed, 1), sample_scene, ask_each, paint)


def heldout_samples(limit: int | None = None) -> list[Sample]:
    """The held-out set, or its first `limit` questions."""
    return list(islice(iter_heldout(), limit))
