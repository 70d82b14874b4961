"""The detail task: scenes, pictures, questions and the held-out set, against plain loops."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tokenprune.reference import (
    DETAIL_TYPES,
    DetailScene,
    Item,
    ask_detail,
    detail_textures,
    detail_words,
    heldout_details,
    render_detail,
    sample_detail_scene,
    vocabulary,
)
from tokenprune.reference.detail_questions import (
    ASK_DETAIL,
    COUNTS,
    PLACES,
    place,
)
from tokenprune.reference.detail_render import detail_tile
from tokenprune.reference.detail_scene import DETAIL_CANVAS, MAX_DETAIL_ITEMS, MAX_GROUP
from tokenprune.reference.questions import PLURALS
from tokenprune.reference.render import item_mask, paste, patch_cover

SINGULAR = {plural: name for name, plural in PLURALS.items()}
QUESTIONS_SHA256 = "1d070b2d94200696475ec9fa7c9c515e76d798e66e84024dbe6e3f4e0b15ced4"
MEAN_PIXEL = 128.464


def one(items: list[Item]) -> Item:
    assert len(items) == 1, "a question must point to exactly one item"
    return items[0]


def only(scene: DetailScene, kind: str) -> Item:
    return one([item for item in scene.objects if item.kind == kind])


def counted(scene: DetailScene, words: list[str]) -> str:
    colour, plural = (None, words[2]) if words[3] == "are" else (words[2], words[3])
    number = 0
    for item in scene.objects:
        number += item.kind == SINGULAR[plural] and colour in (None, item.colour)
    return COUNTS[number]


def brute_force(scene: DetailScene, text: str, kind: str) -> str:
    """The answer, read from the words of the question alone."""
    words = text.split()
    if kind == "colour":
        return only(scene, words[4]).colour
    if kind == "count":
        return counted(scene, words)
    if kind == "exist":
        there = any((item.colour, item.kind) == (words[3], words[4]) for item in scene.objects)
        return "yes" if there else "no"
    if kind == "digit":
        return one([item for item in scene.digits if item.colour == words[3]]).kind
    item = only(scene, words[5])
    value = item.x if kind == "column" else item.y
    return next(name for number, name in enumerate(PLACES) if value < 16 * (number + 1))


def test_answers_agree_with_plain_loops() -> None:
    rng = np.random.default_rng(8)
    known, met = {*vocabulary(), *detail_words()}, dict.fromkeys(DETAIL_TYPES, 0)
    for _ in range(150):
        scene = sample_detail_scene(rng)
        for question in ask_detail(scene, rng):
            assert brute_force(scene, question.text, question.kind) == question.answer
            assert known.issuperset([*question.text.split(), question.answer])
            met[question.kind] += 1
    assert min(met.values()) > 100
    assert not set(detail_words()) & set(vocabulary())


def test_scenes_keep_their_promises() -> None:
    rng = np.random.default_rng(3)
    sizes = set()
    for _ in range(100):
        scene = sample_detail_scene(rng)
        kinds = [item.kind for item in scene.objects]
        sizes |= {kinds.count(kind) for kind in kinds}
        colours = [item.colour for item in scene.digits]
        assert len(colours) == len(set(colours)) >= 2
        assert len(scene.items) <= MAX_DETAIL_ITEMS
        for number, item in enumerate(scene.items):
            assert item.size / 2 <= min(item.x, item.y)
            assert max(item.x, item.y) <= DETAIL_CANVAS - item.size / 2
            for other in scene.items[:number]:
                apart = np.hypot(item.x - other.x, item.y - other.y)
                assert apart > (item.size + other.size) / 2
    assert sizes >= {1, *range(3, MAX_GROUP + 1)}


def test_answers_of_counts_are_spread() -> None:
    rng = np.random.default_rng(4)
    said = [ASK_DETAIL["count"](sample_detail_scene(rng), rng) for _ in range(300)]
    answers = {question.answer for question in said if question}
    assert answers == set(COUNTS)


@pytest.mark.parametrize(("value", "name"), [(8.0, "first"), (16.5, None), (157.5, "tenth")])
def test_places_near_a_border_are_left_open(value: float, name: str | None) -> None:
    assert place(value) == name


def test_what_a_scene_leaves_open_is_not_asked() -> None:
    twins = DetailScene((Item("star", "red", 30, 30, 12, 0), Item("star", "red", 80, 34, 12, 0)))
    rng = np.random.default_rng(10)
    asked = {question.kind for question in ask_detail(twins, rng)}
    # nothing is there once, no digit is there, and red and star can't be had apart for a "no"
    assert asked <= {"count", "exist"}


def test_stamps_are_the_items_themselves() -> None:
    item = Item("heart", "red", 50.5, 61.0, 12.0, 0.1)
    stamped = paste(detail_tile(item), DETAIL_CANVAS)
    np.testing.assert_allclose(stamped[:112, :112], item_mask(item), atol=1e-6)
    assert stamped[112:].max() == 0
    cover = patch_cover(stamped)
    for patch in (126, 127, 146, 147):
        y, x = 8 * (patch // 20), 8 * (patch % 20)
        assert cover[patch] == pytest.approx(stamped[y : y + 8, x : x + 8].mean(), abs=1e-6)


def test_pictures_show_their_items() -> None:
    rng = np.random.default_rng(2)
    scene = sample_detail_scene(rng)
    drawn = render_detail(scene, rng, detail_textures(0, 2))
    assert drawn.image.shape == (DETAIL_CANVAS, DETAIL_CANVAS, 3)
    assert drawn.cover.shape == (len(scene.items), 400)
    white = [i for i in scene.items if i.colour == "white" and i.kind in ("square", "circle")]
    for item in white:
        assert drawn.image[int(item.y), int(item.x)].min() > 200
    assert (drawn.cover.max(1) > 0.1).all()


def test_the_set_is_the_one_the_record_was_made_on() -> None:
    samples = heldout_details(100)
    lines = "\n".join(f"{s.image_id} {s.type} {s.question} {s.answer}" for s in samples)
    assert hashlib.sha256(lines.encode()).hexdigest() == QUESTIONS_SHA256
    pictures = {sample.image_id: np.asarray(sample.image, dtype=np.float64) for sample in samples}
    mean = np.mean([picture.mean() for picture in pictures.values()])
    # a mean, because polygon edges may differ by a shade between drawing libraries
    assert abs(mean - MEAN_PIXEL) < 0.05
    few = heldout_details(10)
    assert [(s.question, s.answer) for s in few] == [(s.question, s.answer) for s in samples[:10]]
    assert few[-1].image.tobytes() == samples[9].image.tobytes()
