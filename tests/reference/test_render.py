from __future__ import annotations

import numpy as np
import pytest

from tokenprune.reference import Item, Scene, Textures, render
from tokenprune.reference.render import item_mask, patch_cover
from tokenprune.reference.scene import COLOURS, KINDS


@pytest.fixture(scope="module")
def textures() -> Textures:
    return Textures(3, count=4)


@pytest.mark.parametrize("kind", KINDS)
def test_masks_stay_near_their_item(kind: str) -> None:
    item = Item(kind, "red", 60.0, 50.0, 24.0, 0.2)
    mask = item_mask(item)
    rows, columns = np.nonzero(mask)
    assert 0.0 <= mask.min() <= mask.max() <= 1.0
    assert 60 < mask.sum() < 24 * 24
    assert np.hypot(columns - item.x, rows - item.y).max() < 24 * 0.75


def test_square_has_its_area() -> None:
    mask = item_mask(Item("square", "red", 56.0, 56.0, 20.0, 0.0))
    assert float(mask.sum()) == pytest.approx(17.0**2, rel=0.04)


def test_ring_has_a_hole() -> None:
    assert item_mask(Item("ring", "red", 56.0, 56.0, 24.0, 0.0))[56, 56] == 0.0


def test_cover_is_the_mean_of_each_patch() -> None:
    mask = np.zeros((112, 112), dtype=np.float32)
    mask[8:16, 16:20] = 1.0
    cover = patch_cover(mask)
    assert cover[14 + 2] == pytest.approx(0.5)
    assert float(cover.sum()) == pytest.approx(0.5)


def test_render_shows_the_colour_where_the_cover_is(textures: Textures) -> None:
    scene = Scene((Item("square", "blue", 40.0, 60.0, 28.0, 0.0),))
    drawn = render(scene, np.random.default_rng(0), textures)
    assert drawn.image.shape == (112, 112, 3)
    assert drawn.image.dtype == np.uint8
    inside = drawn.image[55:65, 35:45].reshape(-1, 3).mean(0)
    assert np.abs(inside - np.array(COLOURS["blue"])).max() < 15
    assert drawn.cover[0].argmax() in {7 * 14 + 4, 7 * 14 + 5, 6 * 14 + 4, 7 * 14 + 4}


def test_same_generator_same_picture(textures: Textures) -> None:
    scene = Scene((Item("heart", "red", 40.0, 60.0, 20.0, 0.1),))
    first, second = (render(scene, np.random.default_rng(4), textures).image for _ in range(2))
    assert np.array_equal(first, second)
