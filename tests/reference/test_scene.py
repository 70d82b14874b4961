from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tokenprune.reference import Scene, sample_scene
from tokenprune.reference.scene import CANVAS, MAX_ITEMS


def scenes(count: int = 300) -> Iterator[Scene]:
    rng = np.random.default_rng(5)
    for _ in range(count):
        yield sample_scene(rng)


def test_same_seed_same_scenes() -> None:
    assert list(scenes(20)) == list(scenes(20))


def test_items_lie_inside_and_apart() -> None:
    for scene in scenes():
        assert 1 <= len(scene.items) <= MAX_ITEMS
        for number, item in enumerate(scene.items):
            assert item.size / 2 < item.x < CANVAS - item.size / 2
            assert item.size / 2 < item.y < CANVAS - item.size / 2
            for other in scene.items[:number]:
                distance = math.hypot(item.x - other.x, item.y - other.y)
                assert distance > (item.size + other.size) / 2


def test_digit_is_alone_and_has_its_own_colour() -> None:
    shown = 0
    for scene in scenes():
        assert len(scene.items) - len(scene.objects) <= 1
        if scene.digit is not None:
            shown += 1
            assert scene.digit.colour not in {item.colour for item in scene.objects}
    assert 100 < shown < 200


def test_minimum_of_objects() -> None:
    rng = np.random.default_rng(6)
    assert all(len(sample_scene(rng, 2).objects) >= 2 for _ in range(100))
