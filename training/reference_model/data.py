"""Training batches, rendered in worker processes, the same for the same (seed, stage, step)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenprune.reference.questions import ASK, TYPES, SceneQuestion
from tokenprune.reference.render import Textures, render
from tokenprune.reference.scene import COLOURS, GRID, KINDS, PATCH, Item, Scene, sample_scene
from training.reference_model.helpers import HELPER, helper_question
from training.reference_model.vocab import EOS, WORD_ID
from training.shared import asking
from training.shared.asking import Ask, Asking
from training.shared.drawing import Arrays, Draw, drawn

COLOUR_NAMES = tuple(COLOURS)
BACKGROUND_KIND = len(KINDS)
NO_COLOUR = len(COLOUR_NAMES)
IGNORE = -100
ALL_TYPES = (*TYPES, HELPER)
QUESTION_LENGTH = 8
ASKING = Asking(TYPES, WORD_ID, QUESTION_LENGTH, EOS)
#: Training asks helpers besides.
TRAINING = replace(ASKING, types=ALL_TYPES)
OWN_COVER = 0.15
TOUCH_COVER = 0.02


class Drawable(Protocol):
    """A scene."""

    @property
    def items(self) -> Sequence[Item]:
        """What is drawn."""


@dataclass(frozen=True)
class Batch:
    """One training batch.

    Attributes:
        images: `[B, 112, 112, 3]` uint8.
        kind: `[B, 196]` kind of the item on a patch, background, or ignore.
        colour: `[B, 196]` its colour, none, or ignore.
        owner: `[B, 196]` index of the item that owns a patch, or -1.
        touched: `[B, 196]` whether any item touches a patch.
        centre: `[B, 196, 2]` centre of the owner in 0..1.
        has_kind: `[B, kinds]` which kinds the image shows.
        has_colour: `[B, colours]` which colours.
        has_pair: `[B, kinds * colours]` which combinations.
        items: `[B]` how many items.
        words: `[B, Q, L]` question words and answer, right-padded.
        answer_at: `[B, Q]` position of the question mark.
        answer: `[B, Q]` word id of the answer.
        type: `[B, Q]` index of the question type.
    """

    images: Tensor
    kind: Tensor
    colour: Tensor
    owner: Tensor
    touched: Tensor
    centre: Tensor
    has_kind: Tensor
    has_colour: Tensor
    has_pair: Tensor
    items: Tensor
    words: Tensor
    answer_at: Tensor
    answer: Tensor
    type: Tensor

    @classmethod
    def of(cls, arrays: Arrays) -> Self:
        """A batch of arrays by field."""
        return cls(**{name: torch.from_numpy(array) for name, array in arrays.items()})


@dataclass(frozen=True)
class DataPlan:
    """What a stage wants of its data: sizes, and how often each question type comes."""

    batch: int
    questions: int
    weights: tuple[float, ...]
    crowd_share: float = 0.5
    helper_share: float = 0.0


def draw_questions(scene: Scene, rng: np.random.Generator, plan: DataPlan) -> list[SceneQuestion]:
    """Questions about one scene, now and then a helper's."""

    def asked(ask: Ask[Scene]) -> Ask[Scene]:
        def helped(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
            if plan.helper_share and rng.random() < plan.helper_share:
                return helper_question(scene, rng)
            return ask(scene, rng)

        return helped

    asks = [asked(ASK[name]) for name in TYPES]
    return asking.draw_questions(scene, rng, asks, plan.weights, plan.questions)


def kinds_of(scene: Drawable) -> NDArray[np.int64]:
    """Number of every item's kind, `[items]`."""
    return np.array([KINDS.index(item.kind) for item in scene.items])


def label_scene(
    out: Arrays,
    row: int,
    scene: Drawable,
    owner: NDArray[np.int64],
    touched: NDArray[np.bool_],
) -> None:
    """Fill the dense and the image-level targets of one row.

    Args:
        out: the fields of a `Batch`.
        row: of the scene.
        scene: what is drawn.
        owner: which item a patch belongs to, -1 for none.
        touched: whether any item touches a patch; one that none owns is left out of the loss.
    """
    kinds = kinds_of(scene)
    colours = np.array([COLOUR_NAMES.index(item.colour) for item in scene.items])
    centres = np.array([(item.x, item.y) for item in scene.items], dtype=np.float32)
    canvas = out["images"].shape[1]
    rest = np.where(touched, IGNORE, BACKGROUND_KIND)
    out["kind"][row] = np.where(owner >= 0, kinds[owner], rest)
    out["colour"][row] = np.where(owner >= 0, colours[owner], np.where(touched, IGNORE, NO_COLOUR))
    out["owner"][row], out["touched"][row] = owner, touched | (owner >= 0)
    out["centre"][row] = centres[owner] / canvas
    out["has_kind"][row, kinds] = 1
    out["has_colour"][row, colours] = 1
    out["has_pair"][row, kinds * len(COLOUR_NAMES) + colours] = 1
    out["items"][row] = len(scene.items)


def empty_arrays(rows: int, asked: int, length: int, grid: int) -> Arrays:
    """The fields of a `Batch` as arrays of zeros.

    Args:
        rows: pictures.
        asked: questions a picture.
        length: words of a question.
        grid: patches a side.
    """
    patches, canvas = grid * grid, grid * PATCH
    whole: dict[str, tuple[int, ...]] = {
        "kind": (patches,),
        "colour": (patches,),
        "owner": (patches,),
        "items": (),
        "words": (asked, length),
        "answer_at": (asked,),
        "answer": (asked,),
        "type": (asked,),
    }
    real = {
        "centre": (patches, 2),
        "has_kind": (len(KINDS),),
        "has_colour": (len(COLOUR_NAMES),),
        "has_pair": (len(KINDS) * len(COLOUR_NAMES),),
    }
    return {
        "images": np.zeros((rows, canvas, canvas, 3), np.uint8),
        "touched": np.zeros((rows, patches), np.bool_),
        **{name: np.zeros((rows, *shape), np.int64) for name, shape in whole.items()},
        **{name: np.zeros((rows, *shape), np.float32) for name, shape in real.items()},
    }


def make_arrays(plan: DataPlan, rng: np.random.Generator, textures: Textures) -> Arrays:
    """Draw scenes and questions and render them: the fields of a `Batch` as arrays."""
    out = empty_arrays(plan.batch, plan.questions, QUESTION_LENGTH, GRID)
    for row in range(plan.batch):
        scene = sample_scene(rng, 2 if rng.random() < plan.crowd_share else 1)
        drawn = render(scene, rng, textures)
        out["images"][row] = drawn.image
        owner = np.where(drawn.cover.max(0) >= OWN_COVER, drawn.cover.argmax(0), -1)
        label_scene(out, row, scene, owner, drawn.cover.max(0) > TOUCH_COVER)
        TRAINING.fill(out, row, draw_questions(scene, rng, plan))
    return out


def drawer(plan: DataPlan, seed: int) -> Draw:
    """What makes the batches of a stage, in whatever process, with the textures of a seed."""
    return partial(make_arrays, plan, textures=Textures(seed))


@contextmanager
def batches(
    plan: DataPlan, seed: int, stage: int, steps: range, workers: int = 1
) -> Iterator[Iterator[Batch]]:
    """Batches for the given steps; the same ones whatever the number of workers."""
    with drawn(drawer(plan, seed), (seed, 2, stage), steps, workers) as stream:
        yield (Batch.of(arrays) for arrays in stream)


def normalise(images: Tensor) -> Tensor:
    """`[B, 112, 112, 3]` uint8 to the `[B, 3, 112, 112]` pixels that the processor makes."""
    return (images.permute(0, 3, 1, 2).float() / 255.0 - 0.5) / 0.5
