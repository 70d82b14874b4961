"""Training batches of the detail task, drawn in a worker process, the same for the same key."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tokenprune.reference.detail_questions import ASK_DETAIL, DETAIL_TYPES
from tokenprune.reference.detail_render import detail_textures, render_detail
from tokenprune.reference.detail_scene import DETAIL_GRID, DetailScene, sample_detail_scene
from tokenprune.reference.render import Textures
from tokenprune.reference.scene import KINDS, PATCH
from training.detail_model.sides import DOUBT, SIDES, neighbours
from training.detail_model.vocab import WORD_ID
from training.reference_model.data import (
    BACKGROUND_KIND,
    IGNORE,
    TOUCH_COVER,
    Batch,
    empty_arrays,
    kinds_of,
    label_scene,
)
from training.reference_model.vocab import EOS
from training.shared.asking import Asking, draw_questions
from training.shared.drawing import Arrays, Draw

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


def make_arrays(plan: DataPlan, rng: np.random.Generator, textures: Textures) -> Arrays:
    """Draw scenes and questions and render them: the fields of a `DetailBatch` as arrays."""
    rows, patches = plan.batch, DETAIL_GRID**2
    out = empty_arrays(rows, plan.questions, QUESTION_LENGTH, DETAIL_GRID)
    out["anchor"] = np.zeros((rows, patches), np.bool_)
    out["beside"] = np.zeros((rows, patches, SIDES), np.int64)
    out["numbers"] = np.zeros((rows, len(KINDS)), np.float32)
    asks = [ASK_DETAIL[name] for name in DETAIL_TYPES]
    for row in range(rows):
        scene = sample_detail_scene(rng)
        drawn = render_detail(scene, rng, textures)
        out["images"][row] = drawn.image
        owner, kinds = owners(scene, drawn.cover), kinds_of(scene)
        label_scene(out, row, scene, owner, drawn.cover.max(0) > TOUCH_COVER)
        out["anchor"][row, anchors(scene)] = True
        out["beside"][row] = np.where(owner[:, None] >= 0, _beside(scene, kinds)[owner], IGNORE)
        out["numbers"][row] = np.bincount(kinds, minlength=len(KINDS))
        ASKING.fill(out, row, draw_questions(scene, rng, asks, plan.weights, plan.questions))
    return out


def drawer(plan: DataPlan, seed: int) -> Draw:
    """What makes the batches of a stage, in whatever process, with the textures of a seed."""
    return partial(make_arrays, plan, textures=detail_textures(seed))
