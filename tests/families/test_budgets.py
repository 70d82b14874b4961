"""Budgets for tiles and for whole prompts, on pictures whose sizes are not known at attach."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tokenprune
from tests.families import scenes
from tests.families.calls import case_of, logits
from tests.families.models.tiled import LlavaNext
from tests.families.plans import decoder, plan
from tests.families.scenes import Image, Prompt, Text
from tokenprune.errors import BudgetError, PlanError, UnsupportedCallError
from tokenprune.integrations import count, encoder, select
from tokenprune.interface.trace import ImageTrace
from tokenprune.plan.budget import split

TOTALS = ("llava", "llava_next", "qwen2_5_vl", "glm4v", "gemma3")
UNTILED = ("llava", "qwen3_vl", "gemma3")


def early(keep: Any, strategy: str = "random") -> dict[str, Any]:
    return {"at": "pre_llm", "strategy": strategy, "keep": keep}


def left(name: str, call: dict[str, Any], *stages: dict[str, Any]) -> list[ImageTrace]:
    with tokenprune.attach(case_of(name).build(), plan(*stages)) as handle:
        logits(handle.model, call)
        return handle.trace.images


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(st.lists(st.booleans(), min_size=0, max_size=3), min_size=1, max_size=3),
    total=st.integers(3, 90),
)
@pytest.mark.parametrize("name", TOTALS)
def test_prompts_with_any_number_of_pictures_keep_the_total(
    name: str, rows: list[list[bool]], total: int
) -> None:
    case = case_of(name)
    if not any(rows):
        return
    prompts: list[Prompt] = []
    for row in rows:
        parts = [Image(*case.sizes[large], at) for at, large in enumerate(row)]
        shown = [part for one in parts for part in (one, Text(1, 40))]
        prompts.append((Text(2, 10), *shown, Text(2, 60)))
    images = left(name, case.call(prompts, "left", torch.float32), early({"total": total}))
    start = 0
    for row in rows:
        mine = images[start : start + len(row)]
        start += len(row)
        assert [image.kept for image in mine] == split(total, [one.patches for one in mine])
    assert start == len(images)


@pytest.mark.parametrize("name", TOTALS)
def test_a_total_inside_the_llm_is_of_the_whole_prompt(name: str) -> None:
    call = case_of(name).inputs("several")
    images = left(name, call, decoder(name, {"total": 9}))
    assert [sum(one.kept for one in images[:2]), images[2].kept] == [9, 9]
    images = left(name, call, decoder(name, {"total": 999}))
    assert all(one.kept == one.patches for one in images)


def test_what_an_earlier_stage_left_is_shared() -> None:
    call = case_of("qwen2_5_vl").inputs("several")
    images = left("qwen2_5_vl", call, early(0.5, "uniform"), early({"total": 5}))
    behind = [one.steps[0].kept for one in images]
    assert [one.kept for one in images] == [*split(5, behind[:2]), 5]


def test_a_total_for_a_video_is_of_all_its_frames() -> None:
    for name in ("qwen2_5_vl", "glm4v"):  # its clips have the placeholder of pictures
        call = case_of(name).inputs("video")
        assert [one.kept for one in left(name, call, early({"total": 5}))] == [5, 5]
    case = case_of("llava")
    frames = plan(early({"total": 11}), images="frames")
    with tokenprune.attach(case.build(), frames) as handle:
        logits(handle.model, case.inputs("several"))
        assert [one.kept for one in handle.trace.images] == [11, 11]


def test_beams_share_the_total_of_their_prompt() -> None:
    case = case_of("llava_next")
    model = case.build()
    with tokenprune.attach(model, plan(early({"total": 9}))) as handle:
        beams = partial(model.generate, **case.inputs("several"), num_beams=2, max_new_tokens=2)
        if not hasattr(model, "_expand_multimodal_outputs"):
            # releases that encode in every forward mix up the pictures of a prompt with several
            with pytest.raises(UnsupportedCallError, match="can't be matched row by row"):
                beams()
            return
        beams()
        assert [one.kept for one in handle.trace.images] == [*split(9, [32, 64]), 9]


@pytest.mark.parametrize("at", ["pre_llm", "decoder"])
def test_tiles_of_a_picture_share_its_budget(at: str) -> None:
    case = case_of("llava_next")
    call = case.inputs("two_sizes")
    stage = early({"per_tile": 4}) if at == "pre_llm" else decoder("llava_next", {"per_tile": 4})
    assert isinstance(case, LlavaNext)
    shown = scenes.images(case.prompts("two_sizes"))
    tiles = [1 + math.prod(case.tiles(picture)) for picture in shown]
    assert tiles == [3, 5]
    assert [one.kept for one in left("llava_next", call, stage)] == [12, 20]
    many = {**stage, "keep": {"per_tile": 12}}  # padding leaves less than that of some tiles
    assert [one.kept for one in left("llava_next", call, many)] == [32, 60]


@pytest.mark.parametrize("name", UNTILED)
def test_a_picture_that_is_seen_whole_is_one_tile(name: str) -> None:
    call = case_of(name).inputs("several")
    kept = [one.kept for one in left(name, call, early({"per_tile": 3}))]
    assert kept == [3, 3, 3]
    inside = {"at": "encoder", "strategy": "random", "keep": {"per_tile": 3}}
    assert [one.kept for one in left(name, call, inside)] == [3, 3, 3]


def test_a_frame_is_one_tile() -> None:
    call = case_of("qwen2_5_vl").inputs("video")
    for stage in (early({"per_tile": 2}), decoder("qwen2_5_vl", {"per_tile": 2})):
        images = left("qwen2_5_vl", call, stage)
        assert [one.kept for one in images] == [2 * one.grid[0] for one in images]


def test_a_prompt_with_images_and_clips_has_no_total_in_front_of_the_llm() -> None:
    case = case_of("qwen2_5_vl", "mixed")
    with (
        tokenprune.attach(case.build(), plan(early({"total": 9}))) as handle,
        pytest.raises(UnsupportedCallError, match="two kinds"),
    ):
        logits(handle.model, case.inputs("mixed"))
    images = left("qwen2_5_vl", case.inputs("mixed"), decoder("qwen2_5_vl", {"total": 9}))
    assert sum(one.kept for one in images) == 9 + 8  # the other prompt has no more


def test_fewer_tokens_than_pictures() -> None:
    case = case_of("llava")
    with (
        tokenprune.attach(case.build(), plan(early({"total": 1}))) as handle,
        pytest.raises(BudgetError, match="each of 2 pictures") as caught,
    ):
        logits(handle.model, case.inputs("several"))
    assert caught.value.nearest == 2


def test_engines_that_ask_about_one_picture() -> None:
    content = plan(early({"total": 9}))
    tower = case_of("llava").build().model.vision_tower
    for ask in (
        lambda: count((1, 6, 6), content),
        lambda: select(torch.zeros(1, 36, 4), (1, 6, 6), content),
        lambda: encoder(tower, content),
    ):
        with pytest.raises(PlanError, match="shared by all images of a prompt"):
            ask()
    tiled = plan(early({"per_tile": 9}))
    assert count((1, 12, 12), tiled) == 9
    assert count((1, 12, 12), tiled, tiles=5) == 45
    assert count((4, 12, 12), tiled) == 36
    with encoder(tower, tiled) as pruned:
        assert pruned.count((1, 6, 6)) == 9


def test_an_average_is_solved_behind_them() -> None:
    one = case_of("llava").inputs("one")
    first = {**decoder("llava", {"total": 20}), "layer": 1}
    (image,) = left("llava", one, first, decoder("llava", {"average": 16.0}))
    assert image.kept == 4  # (36 + 20 + 2 * 4) / 4 layers = 16
    first = {**decoder("llava", 0.25), "layer": 1}
    (image,) = left("llava", one, first, decoder("llava", {"per_tile": 30}))
    assert image.kept == 9
