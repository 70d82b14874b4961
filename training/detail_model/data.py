"""Training batches of the detail task, drawn in a worker process, the same for the same key."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenprune.reference.detail_questions import ASK_DETAIL, DETAIL_TYPES
from tokenprune.reference.detail_render import detail_textures, render_detail
from tokenprune.reference.detail_scene import (
    DETAIL_CANVAS,
    DETAIL_GRID,
    DetailScene,
    sample_detail_scene,
)
from tokenprune.reference.questions import SceneQuestion
from tokenprune.reference.render import Textures
from tokenprune.reference.scene import COLOURS, KINDS, PATCH
from training.detail_model.sides import DOUBT, SIDES, neighbours
from training.detail_model.vocab import WORD_ID
from training.reference_model.data import (
    BACKGROUND_KIND,
    COLOUR_NAMES,
    IGNORE,
    NO_COLOUR,
    TOUCH_COVER,
    Batch,
)
from training.reference_model.vocab import EOS
from training.shared.asking import Asking
from training.shared.drawing import Arrays

#: A patch belongs to an item from this cover on: digits are thin.
OWN_COVER = 0.1
QUESTION_LENGTH = 9
ASKING = Asking(DETAIL_TYPES, WORD_ID, QUESTION_LENGTH, EOS)


@dataclass(frozen=True)
class DetailBatch(Batch):
    """A batch of the detail task.

    Attributes:
        anchor: `[B, 400]` whether the patch holds the centre of an item.
        numbers: `[B, kinds]` how many items there are of every kind.
        beside: `[B, 400, 4]` kind of what stands right beside the item on every side, one more
            than the kinds for nothing, or ignore.
    """

    anchor: Tensor
    numbers: Tensor
    beside: Tensor


@dataclass(frozen=True)
class DataPlan:
    """What a stage wants of its data: sizes, and how often each question type comes."""

    batch: int
    questions: int
    weights: tuple[float, ...]


def draw_questions(
    scene: DetailScene, rng: np.random.Generator, plan: DataPlan
) -> list[SceneQuestion]:
    """Questions about one scene, types by weight; a scene always allows counting."""
    share = np.asarray(plan.weights) / sum(plan.weights)
    drawn: list[SceneQuestion] = []
    while len(drawn) < plan.questions:
        for kind in rng.choice(len(DETAIL_TYPES), size=plan.questions, p=share):
            question = ASK_DETAIL[DETAIL_TYPES[int(kind)]](scene, rng)
            if question is not None:
                drawn.append(question)
    return drawn[: plan.questions]


def anchors(scene: DetailScene) -> NDArray[np.int64]:
    """The patch that holds the centre of every item, `[items]`."""
    places = np.array([(item.y, item.x) for item in scene.items]) // PATCH
    return np.asarray(places @ (DETAIL_GRID, 1), dtype=np.int64)


def owners(scene: DetailScene, cover: NDArray[np.float32]) -> NDArray[np.int64]:
    """Which item a patch belongs to, `[400]`: the one with its centre there, or that covers most.

    Background has -1.
    """
    owner = np.where(cover.max(0) >= OWN_COVER, cover.argmax(0), -1)
    owner[anchors(scene)] = np.arange(len(scene.items))
    return owner


def _beside(scene: DetailScene, kinds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Kinds of every item's neighbours, `[items, 4]`; nothing and doubt as in `DetailBatch`."""
    other = neighbours(scene)
    known = np.where(other >= 0, kinds[other], BACKGROUND_KIND)
    return np.where(other == DOUBT, IGNORE, known)


def _label_scene(out: Arrays, row: int, scene: DetailScene, cover: NDArray[np.float32]) -> None:
    """Fill the dense and the image-level targets of one row."""
    owner = owners(scene, cover)
    touched = cover.max(0) > TOUCH_COVER
    kinds = np.array([KINDS.index(item.kind) for item in scene.items])
    colours = np.array([COLOUR_NAMES.index(item.colour) for item in scene.items])
    centres = np.array([(item.x, item.y) for item in scene.items], dtype=np.float32)
    rest = np.where(touched, IGNORE, BACKGROUND_KIND)
    out["kind"][row] = np.where(owner >= 0, kinds[owner], rest)
    out["colour"][row] = np.where(owner >= 0, colours[owner], np.where(touched, IGNORE, NO_COLOUR))
    out["owner"][row], out["touched"][row] = owner, touched | (owner >= 0)
    out["centre"][row] = centres[owner] / DETAIL_CANVAS
    out["has_kind"][row, kinds] = 1
    out["has_colour"][row, colours] = 1
    out["has_pair"][row, kinds * len(COLOUR_NAMES) + colours] = 1
    out["items"][row] = len(scene.items)
    out["anchor"][row, anchors(scene)] = True
    out["beside"][row] = np.where(owner[:, None] >= 0, _beside(scene, kinds)[owner], IGNORE)
    out["numbers"][row] = np.bincount(kinds, minlength=len(KINDS))


def _empty(plan: DataPlan) -> Arrays:
    rows, asked, patches = plan.batch, plan.questions, DETAIL_GRID**2
    whole = {"kind": (patches,), "colour": (patches,), "owner": (patches,), "items": ()}
    whole["beside"] = (patches, SIDES)
    asking = {"words": (asked, QUESTION_LENGTH), "answer_at": (asked,)}
    asking |= {"answer": (asked,), "type": (asked,)}
    real = {"centre": (patches, 2), "has_kind": (len(KINDS),), "has_colour": (len(COLOURS),)}
    real |= {"has_pair": (len(KINDS) * len(COLOURS),), "numbers": (len(KINDS),)}
    out: Arrays = {
        "images": np.zeros((rows, DETAIL_CANVAS, DETAIL_CANVAS, 3), dtype=np.uint8),
        "touched": np.zeros((rows, patches), dtype=np.bool_),
        "anchor": np.zeros((rows, patches), dtype=np.bool_),
    }
    out |= {name: np.zeros((rows, *shape), np.int64) for name, shape in (whole | asking).items()}
    return out | {name: np.zeros((rows, *shape), np.float32) for name, shape in real.items()}


def make_arrays(plan: DataPlan, rng: np.random.Generator, textures: Textures) -> Arrays:
    """Draw scenes and questions and render them: the fields of a `DetailBatch` as arrays."""
    out = _empty(plan)
    for row in range(plan.batch):
        scene = sample_detail_scene(rng)
        drawn = render_detail(scene, rng, textures)
        out["images"][row] = drawn.image
        _label_scene(out, row, scene, drawn.cover)
        for column, question in enumerate(draw_questions(scene, rng, plan)):
            out["words"][row, column], out["answer_at"][row, column] = ASKING.encode(
                question.text, question.answer
            )
            out["answer"][row, column] = WORD_ID[question.answer]
            out["type"][row, column] = DETAIL_TYPES.index(question.kind)
    return out


class Drawer:
    """Makes the batches of a stage, in whatever process.

    Args:
        plan: of the stage.
        seed: of the textures.
    """

    def __init__(self, plan: DataPlan, seed: int) -> None:
        self.plan, self.textures = plan, detail_textures(seed)

    def __call__(self, rng: np.random.Generator) -> Arrays:
        """The fields of one batch."""
        return make_arrays(self.plan, rng, self.textures)


def as_batch(arrays: Arrays) -> DetailBatch:
    """Arrays as tensors."""
    return DetailBatch(**{name: torch.from_numpy(array) for name, array in arrays.items()})
