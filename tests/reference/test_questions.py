from __future__ import annotations

import numpy as np
import pytest

from tokenprune.reference import TYPES, Item, Scene, ask_each, sample_scene, vocabulary
from tokenprune.reference.questions import ASK, CLEAR_GAP, NUMBERS, PLURALS, RELATIONS

SINGULAR = {plural: name for name, plural in PLURALS.items()}


def one(items: list[Item]) -> Item:
    assert len(items) == 1, "a question must point to exactly one item"
    return items[0]


def by_name(scene: Scene, name: str) -> Item:
    if name == "digit":
        return one([item for item in scene.items if item.is_digit])
    return one([item for item in scene.objects if item.kind == name])


def count(scene: Scene, words: list[str]) -> str:
    if words[2] == "objects":
        return NUMBERS[len(scene.objects)]
    if words[3] == "objects":
        return NUMBERS[sum(item.colour == words[2] for item in scene.objects)]
    return NUMBERS[sum(item.kind == SINGULAR[words[2]] for item in scene.objects)]


def beside(scene: Scene, words: list[str]) -> str:
    phrase = " ".join(words[2:-3])
    anchor = by_name(scene, words[-2])
    axis, sign = ("x" if RELATIONS[phrase][0] else "y"), sum(RELATIONS[phrase])
    gaps = {
        item: sign * (getattr(item, axis) - getattr(anchor, axis))
        for item in scene.objects
        if item is not anchor
    }
    assert all(abs(gap) >= CLEAR_GAP for gap in gaps.values())
    return one([item for item, gap in gaps.items() if gap > 0]).kind


def brute_force(scene: Scene, text: str, kind: str) -> str:
    """The answer, read from the words of the question alone."""
    words = text.split()
    if kind == "colour":
        return by_name(scene, words[4]).colour
    if kind == "shape":
        return one([item for item in scene.objects if item.colour == words[4]]).kind
    if kind == "count":
        return count(scene, words)
    if kind == "exist":
        pair = (words[3], words[4])
        return "yes" if pair in {(item.colour, item.kind) for item in scene.objects} else "no"
    if kind == "digit":
        return one([item for item in scene.items if item.is_digit]).kind
    if kind == "relation":
        return beside(scene, words)
    item = by_name(scene, words[3])
    return f"{'upper' if item.y < 56 else 'lower'}-{'left' if item.x < 56 else 'right'}"


def test_answers_agree_with_brute_force() -> None:
    rng = np.random.default_rng(8)
    known, met = set(vocabulary()), set()
    for _ in range(500):
        scene = sample_scene(rng)
        for question in ask_each(scene, rng):
            assert brute_force(scene, question.text, question.kind) == question.answer
            assert known.issuperset([*question.text.split(), question.answer])
            met.add(question.kind)
    assert met == set(TYPES)


def test_yes_and_no_are_balanced() -> None:
    rng = np.random.default_rng(9)
    asked = [ASK["exist"](sample_scene(rng), rng) for _ in range(600)]
    share = sum(q is not None and q.answer == "yes" for q in asked) / len(asked)
    assert share == pytest.approx(0.5, abs=0.08)


def test_doubtful_scenes_are_not_asked_about() -> None:
    rng = np.random.default_rng(10)
    twins = Scene((Item("star", "red", 30, 30, 20, 0), Item("star", "red", 80, 34, 20, 0)))
    assert ASK["colour"](twins, rng) is None
    assert ASK["shape"](twins, rng) is None
    assert ASK["digit"](twins, rng) is None
    assert ASK["where"](twins, rng) is None
    level = Scene((Item("star", "red", 30, 30, 20, 0), Item("ring", "blue", 80, 34, 20, 0)))
    answers = {ASK["relation"](level, rng) for _ in range(40)}
    assert {q.text for q in answers if q} == {
        "what is left of the ring ?",
        "what is right of the star ?",
    }
