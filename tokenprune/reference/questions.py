"""Questions about a scene, with one-word answers, and the rules that make them unambiguous."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tokenprune.reference.scene import CANVAS, COLOURS, SHAPES, Item, Scene

NUMBERS = ("zero", "one", "two", "three", "four")
PLURALS = {name: "crosses" if name == "cross" else f"{name}s" for name in SHAPES}
RELATIONS = {
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
QUADRANTS = ("upper-left", "upper-right", "lower-left", "lower-right")

#: Items closer than this along an axis stand neither before nor behind each other on it.
CLEAR_GAP = 8.0
#: Items closer than this to a middle line lie in no quadrant.
CLEAR_MIDDLE = 6.0


@dataclass(frozen=True)
class SceneQuestion:
    """A question, its one-word answer and its type."""

    text: str
    answer: str
    kind: str


def _choose(rng: np.random.Generator, options: list[SceneQuestion]) -> SceneQuestion | None:
    return options[int(rng.integers(len(options)))] if options else None


def unique_names(scene: Scene) -> list[tuple[str, Item]]:
    """Every item that its name alone points to: "digit", or a shape present once."""
    kinds = [item.kind for item in scene.objects]
    named = [(item.kind, item) for item in scene.objects if kinds.count(item.kind) == 1]
    return named + ([("digit", scene.digit)] if scene.digit else [])


def colour_question(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    """Ask like `what colour is the star ?`."""
    options = [
        SceneQuestion(f"what colour is the {name} ?", item.colour, "colour")
        for name, item in unique_names(scene)
    ]
    return _choose(rng, options)


def shape_question(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    """Ask like `what shape is the red object ?`."""
    colours = [item.colour for item in scene.objects]
    options = [
        SceneQuestion(f"what shape is the {item.colour} object ?", item.kind, "shape")
        for item in scene.objects
        if colours.count(item.colour) == 1
    ]
    return _choose(rng, options)


def _counts(scene: Scene) -> list[SceneQuestion]:
    objects = scene.objects
    options = [("objects", len(objects))]
    options += [(PLURALS[s], sum(item.kind == s for item in objects)) for s in SHAPES]
    taboo = scene.digit.colour if scene.digit else None
    options += [
        (f"{c} objects", sum(item.colour == c for item in objects)) for c in COLOURS if c != taboo
    ]
    return [
        SceneQuestion(f"how many {what} are there ?", NUMBERS[n], "count") for what, n in options
    ]


def count_question(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    """Ask like `how many stars are there ?`, a scene's possible answers equally often."""
    options = _counts(scene)
    answers = sorted({option.answer for option in options})
    wanted = answers[int(rng.integers(len(answers)))]
    return _choose(rng, [option for option in options if option.answer == wanted])


def exist_question(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    """Ask like `is there a red star ?`; a "no" shares shape or colour with something shown."""
    shown = {(item.colour, item.kind) for item in scene.objects}
    if rng.random() < 0.5:
        pairs, answer = sorted(shown), "yes"
    else:
        colours, kinds = {colour for colour, _ in shown}, {kind for _, kind in shown}
        pairs = [
            (c, s) for c in COLOURS for s in SHAPES
            if (c, s) not in shown and (c in colours or s in kinds)
        ]  # fmt: skip
        # swapped pairs, with both parts shown but not together, are the hard ones
        swapped = [(c, s) for c, s in pairs if c in colours and s in kinds]
        pairs, answer = (swapped if swapped and rng.random() < 0.5 else pairs), "no"
    return _choose(rng, [SceneQuestion(f"is there a {c} {s} ?", answer, "exist") for c, s in pairs])


def digit_question(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    """Ask `which digit is shown ?`, if one is."""
    return (
        SceneQuestion("which digit is shown ?", scene.digit.kind, "digit") if scene.digit else None
    )


def related(scene: Scene, anchor: Item, direction: tuple[int, int]) -> Item | None:
    """The only object on that side of `anchor`, if there is exactly one and no doubtful one."""
    found: list[Item] = []
    for item in scene.objects:
        if item is anchor:
            continue
        gap = (item.x - anchor.x) * direction[0] + (item.y - anchor.y) * direction[1]
        if abs(gap) < CLEAR_GAP:
            return None
        if gap > 0:
            found.append(item)
    return found[0] if len(found) == 1 else None


def relation_question(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    """Ask like `what is left of the star ?`, if exactly one object is."""
    options = [
        SceneQuestion(f"what is {words} the {name} ?", other.kind, "relation")
        for name, item in unique_names(scene)
        if not item.is_digit
        for words, direction in RELATIONS.items()
        if (other := related(scene, item, direction)) is not None
    ]
    return _choose(rng, options)


def quadrant(item: Item) -> str | None:
    """The quarter of the image that holds the item's centre, if it is clear of the middle."""
    dx, dy = item.x - CANVAS / 2, item.y - CANVAS / 2
    if min(abs(dx), abs(dy)) < CLEAR_MIDDLE:
        return None
    return QUADRANTS[(2 if dy > 0 else 0) + (1 if dx > 0 else 0)]


def where_question(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    """Ask like `where is the star ?`."""
    options = [
        SceneQuestion(f"where is the {name} ?", spot, "where")
        for name, item in unique_names(scene)
        if (spot := quadrant(item)) is not None
    ]
    return _choose(rng, options)


ASK: dict[str, Callable[[Scene, np.random.Generator], SceneQuestion | None]] = {
    "colour": colour_question,
    "shape": shape_question,
    "count": count_question,
    "exist": exist_question,
    "digit": digit_question,
    "relation": relation_question,
    "where": where_question,
}
TYPES = tuple(ASK)


def ask_each(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    """One question of every type that the scene allows."""
    asked = (ask(scene, rng) for ask in ASK.values())
    return [question for question in asked if question is not None]


def vocabulary() -> list[str]:
    """Every word that a question or an answer can hold, sorted."""
    frame = "what colour is the shape object objects how many are there a which digit shown where ?"
    words = set(frame.split())
    for group in (SHAPES, PLURALS.values(), COLOURS, NUMBERS, QUADRANTS, "0123456789"):
        words.update(group)
    words.update(word for phrase in RELATIONS for word in phrase.split())
    return sorted(words | {"yes", "no"})
