"""Questions about a clip, with one-word answers that no single frame holds."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from tokenprune.reference.clip import FRAMES, WAYS, ClipScene, Mover
from tokenprune.reference.questions import NUMBERS, SceneQuestion, vocabulary

#: An object is asked for its motion if it is visible in so many frames or more.
MOTION_FRAMES = 4

FRAME_WORDS = tuple(str(t) for t in range(FRAMES))


def clip_prompt(question: str) -> str:
    """The text of a prompt: every frame behind its number, then the question."""
    return " ".join([*(f"{word} <image>" for word in FRAME_WORDS), question])


def _choose(rng: np.random.Generator, options: list[SceneQuestion]) -> SceneQuestion | None:
    return options[int(rng.integers(len(options)))] if options else None


def motion_question(clip: ClipScene, rng: np.random.Generator) -> SceneQuestion | None:
    """Ask like `which way does the star move ?`; an object that stands still moves `nowhere`."""
    options = [
        SceneQuestion(f"which way does the {mover.item.kind} move ?", mover.way, "motion")
        for mover in clip.movers
        if sum(mover.shown) >= MOTION_FRAMES
    ]
    return _choose(rng, options)


def order_question(clip: ClipScene, rng: np.random.Generator) -> SceneQuestion | None:
    """Ask `what comes first ?`, `last`, or `before` or `after` a named object."""
    if not clip.staggered or len(clip.movers) < 2:
        return None
    names = [mover.item.kind for mover in clip.movers]
    ends = [("first", names[0]), ("last", names[-1])]
    inner = [(f"after the {a}", b) for a, b in pairwise(names)]
    inner += [(f"before the {b}", a) for a, b in pairwise(names)]
    asked = ends if rng.random() < 0.5 else inner
    return _choose(
        rng, [SceneQuestion(f"what comes {what} ?", name, "order") for what, name in asked]
    )


def _times(mover: Mover) -> SceneQuestion:
    text = f"how often does the {mover.item.kind} appear ?"
    return SceneQuestion(text, NUMBERS[len(mover.enters)], "count")


def count_question(clip: ClipScene, rng: np.random.Generator) -> SceneQuestion | None:
    """Ask `how many objects appear ?`, or how often one does where objects come and go."""
    if clip.staggered:
        return SceneQuestion("how many objects appear ?", NUMBERS[len(clip.movers)], "count")
    return _choose(rng, [_times(mover) for mover in clip.movers])


ASK_CLIP: dict[str, Callable[[ClipScene, np.random.Generator], SceneQuestion | None]] = {
    "motion": motion_question,
    "order": order_question,
    "count": count_question,
}
CLIP_TYPES = tuple(ASK_CLIP)


def ask_clip(clip: ClipScene, rng: np.random.Generator) -> list[SceneQuestion]:
    """One question of every type that the clip allows; there is always one to count."""
    asked = (ask(clip, rng) for ask in ASK_CLIP.values())
    return [question for question in asked if question is not None]


def clip_words() -> list[str]:
    """Words of clip questions and answers that image questions do not have, sorted."""
    text = "which way does the move what comes first last before after how many often appear in"
    return sorted({*text.split(), *WAYS} - set(vocabulary()))
