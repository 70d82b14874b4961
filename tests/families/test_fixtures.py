"""The tiny models and their inputs are what the other tests take them for."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.families.calls import case_of, feature_rows, logits
from tests.families.cases import CASES
from tests.families.cells import LINEAR, WHOLE
from tests.families.scenes import SCENES

EXACT = 1e-9
CELLS = [(name, scene) for name, case in CASES.items() for scene in case.scenes]
ENDS = (WHOLE, (SCENES[0], "none"))
"""A scene with padding and one without."""
ALONE = [(name, scene) for name, scene in CELLS if scene in (WHOLE[0], "video") or name in LINEAR]
"""Where the other tests may hold a batch to its samples."""


@pytest.mark.parametrize("name", CASES)
def test_inputs_repeat_and_are_padded_where_asked(name: str) -> None:
    case = case_of(name)
    for scene, padding in ENDS:
        call, again = (case.inputs(scene, padding) for _ in range(2))
        assert bool(call["attention_mask"].all()) == (padding == "none")
        assert all(torch.equal(call[key], value) for key, value in again.items())


@pytest.mark.parametrize("name", CASES)
def test_a_second_build_has_equal_weights(name: str) -> None:
    case = case_of(name)
    again = case.create()
    pairs = itertools.zip_longest(case.build().parameters(), again.parameters())
    assert all(torch.equal(one, other) for one, other in pairs)
    assert not again.training


@pytest.mark.parametrize(("name", "scene"), CELLS)
def test_every_feature_has_a_place(name: str, scene: str) -> None:
    case = case_of(name, scene)
    model, call = case.build(), case.inputs(scene)
    features = sum(feature_rows(model, call, kind) for kind in ("image", "video"))
    assert features + case.added(call) == int(case.placeholders(call).sum()) > 0


@pytest.mark.parametrize("name", CASES)
def test_pictures_of_two_sizes_take_different_counts_of_places(name: str) -> None:
    case = case_of(name)
    counts = case.placeholders(case.inputs("two_sizes")).sum(1).tolist()
    assert (counts[0] != counts[1]) == (case.sizes[0] != case.sizes[1])


@pytest.mark.parametrize("name", CASES)
def test_logits_depend_on_every_picture(name: str) -> None:
    case = case_of(name)
    model, call = case.build(), case.inputs("two_sizes")
    pixels = "pixel_values" if "pixel_values" in call else "pixel_values_images"
    other = {**call, pixels: call[pixels].square()}
    change = (logits(model, call) - logits(model, other))[:, -1].abs().amax(-1)
    assert bool((change > 1e-2).all())


@pytest.mark.parametrize(("name", "scene"), ALONE)
def test_a_padded_batch_gives_what_its_samples_give(name: str, scene: str) -> None:
    case = case_of(name, scene)
    model = case.build(torch.float64)
    single = [
        logits(model, one, **case.positions(one))[0]
        for one in case.alone(scene, dtype=torch.float64)
    ]
    for padding in ("left", "right") if scene == WHOLE[0] else ("left",):
        call = case.inputs(scene, padding, torch.float64)
        batch, seen = logits(model, call, **case.positions(call)), call["attention_mask"].bool()
        worst = max(
            float((row[mask] - alone).abs().max())
            for row, mask, alone in zip(batch, seen, single, strict=True)
        )
        assert worst < case.rounding, padding
        # rows of right padding are summed in the order of a row alone: nothing has to differ there
        if padding == "left" and case.rounding > EXACT:
            assert worst > EXACT, "the case can be held to less"
