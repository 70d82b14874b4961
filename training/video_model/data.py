"""Training clips, drawn and looked at by the frozen tower in a worker process."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenprune.reference import CLIP_TYPES, FRAMES, ClipScene, SceneQuestion, Textures
from tokenprune.reference.clip import sample_clip
from tokenprune.reference.clip_questions import ASK_CLIP
from tokenprune.reference.clip_render import render_clip
from training.reference_model.choose import items_first
from training.reference_model.data import OWN_COVER, TOUCH_COVER, normalise
from training.reference_model.forward import Weights, patchify, tower_forward
from training.reference_model.model import PATCHES
from training.reference_model.vocab import EOS
from training.shared.asking import Asking
from training.video_model.vocab import WORD_ID

#: Word ids of a question with its answer, right-padded.
LENGTH = 9
ASKING = Asking(CLIP_TYPES, WORD_ID, LENGTH, EOS)
#: Patches of every frame that the tower sees in training.
TOWER_TOKENS = 48


@dataclass(frozen=True)
class ClipBatch:
    """Clips as the frozen tower sees them, with questions.

    Attributes:
        patches: `[B, 8, K, D]` bfloat16 features.
        index: `[B, 8, K]` patch numbers.
        owner: `[B, 8, K]` number of the object that owns the patch, or -1.
        touched: `[B, 8, K]` whether any object touches it.
        visit: `[B, 8, K]` how often the patch's object has come so far, 0 if there is none.
        entry: `[B, 8, K]` whether that object was not in the frame before.
        words: `[B, Q, L]` question words and answer, right-padded.
        answer_at: `[B, Q]` place of the question mark.
        answer: `[B, Q]` word id of the answer.
        type: `[B, Q]` index into `CLIP_TYPES`.
    """

    patches: Tensor
    index: Tensor
    owner: Tensor
    touched: Tensor
    visit: Tensor
    entry: Tensor
    words: Tensor
    answer_at: Tensor
    answer: Tensor
    type: Tensor


def draw_questions(clip: ClipScene, rng: np.random.Generator, count: int) -> list[SceneQuestion]:
    """So many questions, the types in turn as far as the clip allows them."""
    drawn: list[SceneQuestion] = []
    while len(drawn) < count:
        for kind in rng.permutation(len(CLIP_TYPES)):
            question = ASK_CLIP[CLIP_TYPES[int(kind)]](clip, rng)
            if question is not None:
                drawn.append(question)
    return drawn[:count]


@dataclass(frozen=True)
class DataPlan:
    """What a stage wants of its clips.

    Attributes:
        clips: clips a batch.
        questions: questions a clip.
        redraw: chance to draw anew a clip whose objects enter in turn; the more, the more clips
            have objects that come and go.
    """

    clips: int
    questions: int
    redraw: float = 0.0


def draw_clip(rng: np.random.Generator, redraw: float) -> ClipScene:
    """A clip of the mix that a stage wants."""
    clip = sample_clip(rng)
    while redraw and clip.staggered and rng.random() < redraw:
        clip = sample_clip(rng)
    return clip


def visits(clip: ClipScene, owner: Tensor) -> tuple[Tensor, Tensor]:
    """The fields `visit` and `entry` of a batch for one clip, from owners `[8, 196]`."""
    shown = torch.tensor([[False, *mover.shown] for mover in clip.movers])
    enters = (shown[:, 1:] & ~shown[:, :-1]).T
    mine = owner.clamp(min=0)
    visit = enters.long().cumsum(0).gather(1, mine) * (owner >= 0)
    return visit, enters.gather(1, mine) & (owner >= 0)


@torch.no_grad()
def make_batch(
    w: Weights, rng: np.random.Generator, textures: Textures, plan: DataPlan
) -> ClipBatch:
    """Draw clips, ask about them and run the tower on the objects and some background."""
    clips, questions = plan.clips, plan.questions
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    words, at, answer, kinds = [], [], [], []
    frames, owner, touched = [], [], []
    visit: list[Tensor] = []
    entry: list[Tensor] = []
    for _ in range(clips):
        clip = draw_clip(rng, plan.redraw)
        drawn = render_clip(clip, rng, textures)
        frames.append(torch.from_numpy(drawn.frames))
        cover = torch.from_numpy(drawn.cover)
        owner.append(torch.where(cover.amax(1) >= OWN_COVER, cover.argmax(1), -1))
        touched.append(cover.amax(1) > TOUCH_COVER)
        for out, field in zip((visit, entry), visits(clip, owner[-1]), strict=True):
            out.append(field)
        for question in draw_questions(clip, rng, questions):
            ids, place = ASKING.encode(question.text, question.answer)
            words.append(ids)
            at.append(place)
            answer.append(WORD_ID[question.answer])
            kinds.append(CLIP_TYPES.index(question.kind))
    seen = torch.stack(touched).flatten(0, 1)
    index = items_first(seen, TOWER_TOKENS, generator)
    pixels = patchify(normalise(torch.stack(frames).flatten(0, 1))).bfloat16()
    features = tower_forward(w, pixels, index, last_block=False).patches
    shape = (clips, FRAMES, TOWER_TOKENS)
    asked = (clips, questions)

    def chosen(fields: list[Tensor]) -> Tensor:
        return torch.stack(fields).flatten(0, 1).gather(1, index).view(shape)

    return ClipBatch(
        patches=features.view(*shape, -1),
        index=index.view(shape),
        owner=chosen(owner),
        touched=chosen(touched),
        visit=chosen(visit),
        entry=chosen(entry),
        words=torch.tensor(words).view(*asked, LENGTH),
        answer_at=torch.tensor(at).view(asked),
        answer=torch.tensor(answer).view(asked),
        type=torch.tensor(kinds).view(asked),
    )


def _work(queue: Any, w: Weights, key: tuple[int, int], plan: DataPlan, count: int) -> None:
    os.nice(5)
    torch.set_num_threads(1)
    textures = Textures(key[0])
    for number in range(count):
        rng = np.random.default_rng([*key, number])
        batch = make_batch(w, rng, textures, plan)
        # as one array each: passing tensors between processes would keep files open
        arrays = {name: _array(value) for name, value in vars(batch).items()}
        queue.put(arrays)


def _array(value: Tensor) -> Any:
    return value.view(torch.int16).numpy() if value.dtype == torch.bfloat16 else value.numpy()


@contextmanager
def clip_batches(
    w: Weights, seed: int, plan: DataPlan, count: int, stage: int = 0
) -> Iterator[Iterator[ClipBatch]]:
    """`count` batches, made ahead in one worker process; the same for the same seed and stage."""
    assert seed >= 0
    context = multiprocessing.get_context("fork")
    queue = context.Queue(maxsize=6)
    key = (seed, 11 + stage)
    process = context.Process(target=_work, args=(queue, w, key, plan, count), daemon=True)
    process.start()
    try:
        yield (_batch(queue.get()) for _ in range(count))
    finally:
        process.terminate()


def _batch(arrays: dict[str, Any]) -> ClipBatch:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    tensors["patches"] = tensors["patches"].view(torch.bfloat16)
    return ClipBatch(**tensors)


def whole_index(rows: int) -> Tensor:
    """All patches of so many frames, `[rows, 196]`."""
    return torch.arange(PATCHES).expand(rows, -1)
