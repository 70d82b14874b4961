"""Reports and traces speak of the user's picture, in however many tiles a family sees it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenprune_adapters.transformers.tile_runs import (
    between_marks,
    closed_by_mark,
    in_fives,
    tiles_of,
    without_gap,
)

import tokenprune
from tests.families import scenes
from tests.families.calls import case_of, logits
from tests.families.models import (
    aria,
    deepseek_ocr2,
    got_ocr2,
    idefics2,
    lfm2,
    minicpm,
    perception,
    shuffled,
    step3p7,
)
from tests.families.models.tiled import LlavaNext
from tests.families.plans import LAYER, decoder, plan
from tests.families.scenes import Image, Prompt, Text
from tokenprune.interface.places import Places

SEPARATE = ("internvl", "idefics3", "smolvlm", "ovis2", "lfm2_vl", "aya_vision", "cohere2_vision")
SEPARATE += (
    "minicpmv4_6",
    "minicpm_ocr",
    "minicpmv4_7",
    "qianfan_ocr",
    "aria",
    "granite_docling",
)
TILED = (
    *SEPARATE,
    "idefics2",
    "deepseek_ocr2",
    "llama4",
    "perception_lm",
    "step3p7",
    "llava_next",
    "llava_onevision",
    "granite4_vision",
)
"""Families whose core gets tiles without being told of which picture."""


def tiles(case: Any, image: Image, prompt: Prompt) -> int:
    """Told from the fixtures."""
    if isinstance(case, LlavaNext):
        alone = case.name != "llava_onevision" or len(scenes.images([prompt])) == 1
        high, wide = case.tiles(image)
        return 1 + high * wide if alone else 1
    if case.name == "lfm2_vl":
        return len(lfm2.pieces(image))
    if case.name == "step3p7":
        return 1 + step3p7.crops(image)
    if isinstance(case, minicpm.MiniCpm):
        return len(minicpm.pieces(image))
    if case.name == "idefics2":
        return len(idefics2.tiles(image))
    if case.name == "aria":
        return image.width // aria.SIDE
    if case.name == "deepseek_ocr2":
        return deepseek_ocr2.parts(image) + 1
    return perception.TILES if case.name == "perception_lm" else shuffled.tiles(image)


@pytest.mark.parametrize("scene", ["one", "several"])
@pytest.mark.parametrize("name", TILED)
def test_a_picture_counts_once(name: str, scene: str) -> None:
    case = case_of(name, scene)
    prompts = case.prompts(scene)
    pictures = [(part, row) for row in prompts for part in row if isinstance(part, Image)]
    seen = [tiles(case, part, row) for part, row in pictures]
    stages = [{"at": "pre_llm", "strategy": "random", "keep": 4}, decoder(name, 3)]
    with tokenprune.attach(case.build(), plan(*stages)) as handle:
        logits(handle.model, case.inputs(scene))
        report, images = handle.report(), handle.trace.images
    assert report.images == len(images) == len(pictures)
    assert [image.steps[0].kept for image in images] == [4] * len(images)
    assert report.tiles == pytest.approx(sum(seen) / len(seen))
    assert report.tokens["units"] == sum(image.patches for image in images) / len(images)
    assert report.tokens["llm"] == 4
    assert report.tokens[f"decoder[{LAYER.get(name, 2)}]"] == 3
    assert (f"in {report.tiles:.3g} tiles" in str(report)) == (report.tiles != 1)


@pytest.mark.parametrize("name", SEPARATE)
def test_pictures_count_once_where_nothing_is_pruned(name: str) -> None:
    case = case_of(name)
    call = case.inputs("two_sizes")
    model = case.build()
    with torch.no_grad():
        plain = model(**call).logits
    with tokenprune.attach(model, {"stages": []}) as handle, torch.no_grad():
        assert torch.equal(model(**call).logits, plain)
        forward = handle.report()
        handle.meter.reset()
        model.generate(**call, max_new_tokens=2, do_sample=False)
        generated = handle.report()
    assert forward.images == generated.images == 2
    assert forward.tokens == generated.tokens
    assert forward.tiles == generated.tiles > 1


@pytest.mark.parametrize("name", ["gemma3", "internvl"])
def test_frames_are_told_where_nothing_is_pruned(name: str) -> None:
    case = case_of(name)
    call = case.inputs("one") if name == "gemma3" else case.inputs("video")
    with tokenprune.attach(case.build(), {"stages": [], "images": "frames"}) as handle:
        with torch.no_grad():
            handle.model(**call)
        assert handle.report().tokens["units"] == 9


@pytest.mark.parametrize("name", ["internvl", "smolvlm", "llava_next"])
def test_what_leaves_a_tower_is_counted_by_pictures(name: str) -> None:
    case = case_of(name)
    inside = {"at": "encoder", "strategy": "random", "keep": {"per_tile": 3}}
    with tokenprune.attach(case.build(), plan(inside)) as handle:
        logits(handle.model, case.inputs("two_sizes"))
        report = handle.report()
    assert report.tiles is not None
    assert report.images == 2
    assert report.tokens["encoder"] == pytest.approx(3 * report.tiles)
    assert report.tokens["encoder_inside"] == report.tokens["encoder"]


@pytest.mark.parametrize("name", SEPARATE)
def test_pictures_without_words_between_are_told_apart(name: str) -> None:
    case = case_of(name)
    small, large = (Image(*size, number) for number, size in enumerate(case.sizes))
    rows: list[Prompt] = [(large, small, small, large, Text(2, 20)), (small, Text(3, 30))]
    call = case.call(rows, "left", torch.float32)
    with tokenprune.attach(case.build(), plan(decoder(name, 1))) as handle:
        logits(handle.model, call)
        shown = [len(image.shapes) for image in handle.trace.images]
        assert shown == [3, 1, 1, 3, 1]
        handle.model.generate(**call, max_new_tokens=2, do_sample=False)
        assert [len(image.shapes) for image in handle.trace.images] == shown


def test_fives_without_words_between_are_told_off() -> None:
    """Of Idefics2, which shows one picture in five tiles, the last of them whole."""
    case = case_of("idefics2")
    small, large = (Image(*size, number) for number, size in enumerate(case.sizes))
    rows: list[Prompt] = [(large, Text(2, 20), small, Text(1, 30), large, Text(2, 40))]
    touching: list[Prompt] = [(Image(*case.sizes[1], 1), Text(2, 20)), (small, Text(3, 30))]
    for prompts, shown in ((rows, [5, 1, 5]), (touching, [5, 1])):
        with tokenprune.attach(case.build(), plan(decoder(case.name, 1))) as handle:
            logits(handle.model, case.call(prompts, "left", torch.float32))
            images = handle.trace.images
        assert [len(image.shapes) for image in images] == shown
        assert {shape for image in images for shape in image.shapes} == {(1, idefics2.UNITS)}


def test_tiles_and_their_whole_are_one_picture_of_got_ocr() -> None:
    case = case_of("got_ocr2")
    rows: list[Prompt] = [(got_ocr2.WIDE, Text(2, 20), Image(*case.sizes[0], 1), Text(2, 40))]
    with tokenprune.attach(case.build(), plan(decoder(case.name, 1))) as handle:
        logits(handle.model, case.call(rows, "left", torch.float32))
        assert [image.shapes for image in handle.trace.images] == [((16, 16),) * 3, ((16, 16),)]


@pytest.mark.parametrize("name", ["internvl", "smolvlm"])
def test_frames_between_words_are_pictures(name: str) -> None:
    case = case_of(name, "video")
    with tokenprune.attach(case.build(), plan(decoder(name, 1))) as handle:
        logits(handle.model, case.inputs("video"))
        assert [image.shapes for image in handle.trace.images] == [((3, 3),)] * 4


def test_class_tokens_of_a_picture_are_those_of_its_overview() -> None:
    """InternVL hands its overview on as the last tile."""
    tile = Places((1, 2, 2))
    assert Places.of_tiles([tile] * 3, overview=-1).overview == 2
    assert Places.of_tiles([tile] * 3).overview == 0
    assert Places.of_tiles([tile]) is tile


MARK, NAME, IMAGE, WORD, LINE = 1, 2, 3, 4, 5


@pytest.mark.parametrize(
    ("tiles", "wanted"), [(1, [0]), (4, [0, 1, 2, 3]), (5, [0]), (6, [*range(6)]), (10, [0, 5])]
)
def test_tiles_in_fives(tiles: int, wanted: list[int]) -> None:
    run = [*(MARK, IMAGE, IMAGE) * tiles, MARK]
    ids = torch.tensor([WORD, *run, WORD, *run])
    starts = (ids == IMAGE).nonzero()[:, 0].tolist()[::2]
    begins = in_fives(ids, [(start, start + 2) for start in starts])
    assert [n for n, new in enumerate(begins) if new] == wanted + [tiles + one for one in wanted]


def test_marks_in_front_of_tiles() -> None:
    tile, line = [MARK, NAME, IMAGE, IMAGE], [LINE]
    picture = [*tile, *tile, *line, *tile, *line, *tile, MARK]
    ids = torch.tensor([WORD, *picture, *picture, WORD, *tile, MARK, WORD])
    starts = (ids == IMAGE).nonzero()[:, 0].tolist()[::2]
    begins = between_marks(ids, [(start, start + 2) for start in starts])
    assert [n for n, new in enumerate(begins) if new] == [0, 4, 8]


@pytest.mark.parametrize("between", [0, 1])
def test_a_mark_behind_every_picture(between: int) -> None:
    tile = [NAME, IMAGE, IMAGE]
    end = [*[LINE] * between, MARK]
    ids = torch.tensor([WORD, *tile, *tile, *end, *tile, *end, WORD, *tile, *tile, *end, WORD])
    tiles = [(start, start + 2) for start in (ids == IMAGE).nonzero()[:, 0].tolist()[::2]]
    assert closed_by_mark(between)(ids, tiles) == [True, False, True, True, False]
    assert closed_by_mark(between)(ids[: tiles[-1][1]], tiles) == [True] * 5
    assert closed_by_mark(between)(ids, []) == []


def test_prompts_that_do_not_fit_leave_tiles_apart() -> None:
    rows = torch.tensor([[WORD, IMAGE, IMAGE, IMAGE, IMAGE], [IMAGE, IMAGE, WORD, WORD, WORD]])
    assert tiles_of(without_gap, rows, IMAGE, [2] * 3) == [2, 1]
    assert tiles_of(without_gap, rows, IMAGE, [1, 3, 2]) == [2, 1]
    assert tiles_of(without_gap, rows, IMAGE, [3, 3]) == [1, 1]
    beams = rows.repeat_interleave(2, dim=0)
    assert tiles_of(without_gap, beams, IMAGE, [2] * 3) == [2, 1]
    assert tiles_of(without_gap, rows, IMAGE, [2] * 5) == [1] * 5
    assert tiles_of(without_gap, rows[:, :1], IMAGE, [2] * 3) == [1] * 3
