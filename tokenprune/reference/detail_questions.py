"""Questions about detail scenes, with one-word answers, and the rules that keep them clear."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tokenprune.reference.detail_scene import DETAIL_CANVAS, DetailScene
from tokenprune.reference.questions import PLURALS, SceneQuestion, vocabulary
from tokenprune.reference.scene import COLOURS, SHAPES

COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLACES = (
    "first", "second", "third", "fourth", "fifth",
    "sixth", "seventh", "eighth", "ninth", "tenth",
)  # fmt: skip
#: Pixels of a column or a row: two patches.
CELL = DETAIL_CANVAS // len(PLACES)
#: Items closer than this to a border of two columns or rows lie in neither.
CLEAR_BORDER = 2.0
Ask = Callable[[DetailScene, np.random.Generator], SceneQuestion | None]


def _choose(rng: np.random.Generator, options: list[SceneQuestion]) -> SceneQuestion | None:
    return options[int(rng.integers(len(options)))] if options else None


def colour_question(scene: DetailScene, rng: np.random.Generator) -> SceneQuestion | None:
    """Ask like `what colour is the star ?`, of a shape that is there once."""
    options = [
        SceneQuestion(f"what colour is the {item.kind} ?", item.colour, "colour")
        for item in scene.lone
    ]
    return _choose(rng, options)


def counts(scene: DetailScene) -> list[SceneQuestion]:
    """All questions on numbers that a scene allows: of shapes, and of shapes in a colour."""
    objects = scene.objects
    options = [(PLURALS[s], sum(item.kind == s for item in objects)) for s in SHAPES]
    for shape in sorted({item.kind for item in objects}):
        options += [
            (f"{c} {PLURALS[shape]}", sum((i.kind, i.colour) == (shape, c) for i in objects))
            for c in COLOURS
        ]
    return [
        SceneQuestion(f"how many {what} are there ?", COUNTS[n], "count") for what, n in options
    ]


def count_question(scene: DetailScene, rng: np.random.Generator) -> SceneQuestion | None:
    """Ask like `how many red stars are there ?`, a scene's possible answers equally often."""
    options = counts(scene)
    answers = sorted({option.answer for option in options})
    wanted = answers[int(rng.integers(len(answers)))]
    return _choose(rng, [option for option in options if option.answer == wanted])


def exist_question(scene: DetailScene, rng: np.random.Generator) -> SceneQuestion | None:
    """Ask like `is there a red star ?`; for a "no", both colour and shape are there, apart."""
    shown = {(item.colour, item.kind) for item in scene.objects}
    if rng.random() < 0.5:
        pairs, answer = sorted(shown), "yes"
    else:
        colours, kinds = sorted({c for c, _ in shown}), sorted({kind for _, kind in shown})
        pairs = [(c, kind) for c in colours for kind in kinds if (c, kind) not in shown]
        answer = "no"
    return _choose(rng, [SceneQuestion(f"is there a {c} {s} ?", answer, "exist") for c, s in pairs])


def digit_question(scene: DetailScene, rng: np.random.Generator) -> SceneQuestion | None:
    """Ask like `which digit is red ?`."""
    options = [
        SceneQuestion(f"which digit is {item.colour} ?", item.kind, "digit")
        for item in scene.digits
    ]
    return _choose(rng, options)


def place(value: float) -> str | None:
    """The column or row of a coordinate in pixels, if it is clear of the borders."""
    into = value % CELL
    if min(into, CELL - into) < CLEAR_BORDER:
        return None
    return PLACES[int(value // CELL)]


def _placed(scene: DetailScene, rng: np.random.Generator, kind: str) -> SceneQuestion | None:
    options = [
        SceneQuestion(f"in which {kind} is the {item.kind} ?", name, kind)
        for item in scene.lone
        if (name := place(item.x if kind == "column" else item.y)) is not None
    ]
    return _choose(rng, options)


def column_question(scene: DetailScene, rng: np.random.Generator) -> SceneQuestion | None:
    """Ask like `in which column is the star ?`, ten of them, counted from the left."""
    return _placed(scene, rng, "column")


def row_question(scene: DetailScene, rng: np.random.Generator) -> SceneQuestion | None:
    """Ask like `in which row is the star ?`, ten of them, counted from the top."""
    return _placed(scene, rng, "row")


ASK_DETAIL: dict[str, Ask] = {
    "colour": colour_question,
    "count": count_question,
    "exist": exist_question,
    "digit": digit_question,
    "column": column_question,
    "row": row_question,
}
DETAIL_TYPES = tuple(ASK_DETAIL)


def ask_detail(scene: DetailScene, rng: np.random.Generator) -> list[SceneQuestion]:
    """One question of every type that the scene allows."""
    asked = (ask(scene, rng) for ask in ASK_DETAIL.values())
    return [question for question in asked if question is not None]


def detail_words() -> list[str]:
    """The words that these questions and answers need besides `vocabulary`, sorted."""
    words = {*COUNTS, *PLACES, "in", "column", "row"}
    return sorted(words - set(vocabulary()))
