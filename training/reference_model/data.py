"""Training batches, rendered in worker processes, the same for the same (seed, stage, step)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenprune.reference.questions import ASK, TYPES, SceneQuestion
from tokenprune.reference.render import Textures, render
from tokenprune.reference.scene import CANVAS, COLOURS, GRID, KINDS, Scene, sample_scene
from training.reference_model.helpers import HELPER, helper_question
from training.reference_model.vocab import EOS, WORD_ID
from training.shared.asking import Asking
from training.shared.drawing import Arrays, drawn

COLOUR_NAMES = tuple(COLOURS)
BACKGROUND_KIND = len(KINDS)
NO_COLOUR = len(COLOUR_NAMES)
IGNORE = -100
ALL_TYPES = (*TYPES, HELPER)
QUESTION_LENGTH = 8
ASKING = Asking(TYPES, WORD_ID, QUESTION_LENGTH, EOS)
OWN_COVER = 0.15
TOUCH_COVER = 0.02


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


@dataclass(frozen=True)
class DataPlan:
    """What a stage wants of its data: sizes, and how often each question type comes."""

    batch: int
    questions: int
    weights: tuple[float, ...]
    crowd_share: float = 0.5
    helper_share: float = 0.0


def draw_questions(scene: Scene, rng: np.random.Generator, plan: DataPlan) -> list[SceneQuestion]:
    """Questions about one scene, types by weight; a scene always allows counting."""
    share = np.asarray(plan.weights) / sum(plan.weights)
    drawn: list[SceneQuestion] = []
    while len(drawn) < plan.questions:
        for kind in rng.choice(len(TYPES), size=plan.questions, p=share):
            if plan.helper_share and rng.random() < plan.helper_share:
                drawn.append(helper_question(scene, rng))
                continue
            question = ASK[TYPES[int(kind)]](scene, rng)
            if question is not None:
                drawn.append(question)
    return drawn[: plan.questions]


def _label_scene(out: Arrays, row: int, scene: Scene, cover: NDArray[np.float32]) -> None:
    """Fill the dense and the image-level targets of one row."""
    owner = np.where(cover.max(0) >= OWN_COVER, cover.argmax(0), -1)
    touched = cover.max(0) > TOUCH_COVER
    kinds = np.array([KINDS.index(item.kind) for item in scene.items])
    colours = np.array([COLOUR_NAMES.index(item.colour) for item in scene.items])
    centres = np.array([(item.x, item.y) for item in scene.items], dtype=np.float32) / CANVAS
    rest = np.where(touched, IGNORE, BACKGROUND_KIND)
    out["kind"][row] = np.where(owner >= 0, kinds[owner], rest)
    out["colour"][row] = np.where(owner >= 0, colours[owner], np.where(touched, IGNORE, NO_COLOUR))
    out["owner"][row], out["touched"][row], out["centre"][row] = owner, touched, centres[owner]
    out["has_kind"][row, kinds] = 1
    out["has_colour"][row, colours] = 1
    out["has_pair"][row, kinds * len(COLOUR_NAMES) + colours] = 1
    out["items"][row] = len(scene.items)


def _empty(plan: DataPlan) -> Arrays:
    rows, asked, patches = plan.batch, plan.questions, GRID * GRID

    def ints(*shape: int) -> NDArray[np.int64]:
        return np.zeros(shape, dtype=np.int64)

    def floats(*shape: int) -> NDArray[np.float32]:
        return np.zeros(shape, dtype=np.float32)

    return {
        "images": np.zeros((rows, CANVAS, CANVAS, 3), dtype=np.uint8),
        "kind": ints(rows, patches),
        "colour": ints(rows, patches),
        "owner": ints(rows, patches),
        "touched": np.zeros((rows, patches), dtype=np.bool_),
        "centre": floats(rows, patches, 2),
        "has_kind": floats(rows, len(KINDS)),
        "has_colour": floats(rows, len(COLOUR_NAMES)),
        "has_pair": floats(rows, len(KINDS) * len(COLOUR_NAMES)),
        "items": ints(rows),
        "words": ints(rows, asked, QUESTION_LENGTH),
        "answer_at": ints(rows, asked),
        "answer": ints(rows, asked),
        "type": ints(rows, asked),
    }


def make_arrays(plan: DataPlan, rng: np.random.Generator, textures: Textures) -> Arrays:
    """Draw scenes and questions and render them: the fields of a `Batch` as arrays."""
    out = _empty(plan)
    for row in range(plan.batch):
        scene = sample_scene(rng, 2 if rng.random() < plan.crowd_share else 1)
        drawn = render(scene, rng, textures)
        out["images"][row] = drawn.image
        _label_scene(out, row, scene, drawn.cover)
        for column, question in enumerate(draw_questions(scene, rng, plan)):
            out["words"][row, column], out["answer_at"][row, column] = ASKING.encode(
                question.text, question.answer
            )
            out["answer"][row, column] = WORD_ID[question.answer]
            out["type"][row, column] = ALL_TYPES.index(question.kind)
    return out


class Drawer:
    """Makes the batches of a stage, in whatever process.

    Args:
        plan: of the stage.
        seed: of the textures.
    """

    def __init__(self, plan: DataPlan, seed: int) -> None:
        self.plan, self.textures = plan, Textures(seed)

    def __call__(self, rng: np.random.Generator) -> Arrays:
        """The fields of one batch."""
        return make_arrays(self.plan, rng, self.textures)


@contextmanager
def batches(
    plan: DataPlan, seed: int, stage: int, steps: range, workers: int = 1
) -> Iterator[Iterator[Batch]]:
    """Batches for the given steps; the same ones whatever the number of workers."""
    with drawn(Drawer(plan, seed), (seed, 2, stage), steps, workers) as stream:
        yield (
            Batch(**{name: torch.from_numpy(array) for name, array in arrays.items()})
            for arrays in stream
        )


def normalise(images: Tensor) -> Tensor:
    """`[B, 112, 112, 3]` uint8 to the `[B, 3, 112, 112]` pixels that the processor makes."""
    return (images.permute(0, 3, 1, 2).float() / 255.0 - 0.5) / 0.5
