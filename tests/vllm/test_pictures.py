"""Tiles and grids from a config alone: counts, what stays of features, refusals; no vLLM needed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tokenprune_adapters.vllm.axes import Words, moments, placed, read, written
from tokenprune_adapters.vllm.grids import ServedGrids
from tokenprune_adapters.vllm.hook import (
    let_pictures_bring_positions,
    refuse_narrow_attention,
    refuse_no_llm,
    refuse_other_prompts,
    started,
)
from tokenprune_adapters.vllm.names import CPU_WORKER, WORDED
from tokenprune_adapters.vllm.serving import served_plan
from tokenprune_adapters.vllm.slices import ServedSlices
from tokenprune_adapters.vllm.tiles import ServedTiles
from tokenprune_strategies.shared.draws import draw

from tests.families.cases import CASES
from tests.families.scenes import Image
from tests.vllm.test_serving import run
from tokenprune.errors import BudgetError, PlanError, SignalError, UnsupportedModelError

TILES: dict[str, Any] = {"positions": "compact", "separators": "keep"}
HALF = {"at": "pre_llm", "strategy": "divprune", "keep": 0.5}
UNIFORM = {"at": "pre_llm", "strategy": "uniform", "keep": 6}


def tiles(name: str, *stages: dict[str, Any]) -> ServedTiles:
    served = served_plan(CASES[name].config(), {**TILES, "stages": list(stages)})
    assert isinstance(served, ServedTiles)
    return served


def grids(name: str, *stages: dict[str, Any]) -> ServedGrids:
    served = served_plan(CASES[name].config(), {"stages": list(stages)})
    assert isinstance(served, ServedGrids)
    return served


@pytest.mark.parametrize(
    "name", ["granite4_vision", "llava_next", "llava_onevision", "llava_onevision-resized"]
)
@pytest.mark.parametrize("size", [(64, 64), (32, 90), (70, 41)])
def test_tokens_of_tiles(name: str, size: tuple[int, int]) -> None:
    case: Any = CASES[name]
    if (why := case.missing()) is not None:
        pytest.skip(why)
    high, wide = case.shown(Image(*size))
    dense = case.patches**2 + high * (wide + 1)
    served = tiles(name, UNIFORM)
    assert served.places(size).count == dense
    assert served.left(size) == 6 + high, "six, and all newlines"
    assert tiles(name).left(size) == dense
    assert tiles(name, HALF).left(size) == (dense - high) // 2 + high


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_budgets_per_tile_count_every_piece(name: str) -> None:
    served, size = tiles(name, {**HALF, "keep": {"per_tile": 3}}), (64, 64)
    places = served.places(size)
    assert places.pieces == 5, "an overview and four tiles"
    left = 5 * 3 + len(places.others)
    assert served.left(size) == len(served.kept(torch.randn(places.count, 4), size)) == left
    shown = {picture.dense: picture.left for picture in served.pictures()}
    assert shown[served.places(served.largest).count] == served.left(served.largest)


def test_what_is_left_of_tiles_stands_in_its_order() -> None:
    served, size = tiles("llava_next", UNIFORM), (64, 64)
    dense, newlines = served.places(size).count, served.places(size).others
    numbered = torch.arange(float(dense))[:, None]
    kept = served.kept(numbered, size)[:, 0].int().tolist()
    assert kept == sorted(kept)
    assert len(kept) == served.left(size)
    assert [at for at in kept if at in newlines] == sorted(newlines)


def test_the_picture_for_profiling_is_that_of_most_tokens() -> None:
    served = tiles("llava_next", UNIFORM)
    assert served.left(served.largest) == max(served.left(size) for size in served.canvases)
    assert served.largest == (64, 64), "as tall as 64 x 32, and more to compute"


def test_tokens_of_grids() -> None:
    served = grids("qwen2_5_vl", {**HALF, "keep": 20})
    assert served.left((1, 10, 12)) == 20
    with pytest.raises(BudgetError, match="20 of 15"):
        served.left((1, 6, 10))
    shown = {picture.size: (picture.dense, picture.left) for picture in served.pictures()}
    assert shown["64 x 64"] == (64, 20)
    assert "1728 -> 20 visual tokens per image of 384 x 288" in started(served, 2)


def test_pixels_that_fit_a_grid() -> None:
    served = grids("qwen2_5_vl", HALF)
    numbers = 3 * served.frames * (served.unit // served.merge) ** 2
    assert served.fits((1, 4, 6), (24, numbers))
    assert not served.fits((1, 4, 6), (20, numbers))
    assert not served.fits((1, 4, 6), (24, numbers // 2))
    assert not served.fits((1, 3, 8), (24, numbers)), "squares of 2 x 2"


def test_pictures_of_a_model_that_hears_and_speaks() -> None:
    import transformers

    thinker = CASES["qwen2_5_omni"].config().to_dict()
    config = transformers.Qwen2_5OmniConfig(thinker_config=thinker)
    served = served_plan(config, {"stages": [{**HALF, "keep": 20}]})
    assert isinstance(served, ServedGrids)
    assert served.left((1, 10, 12)) == 20
    assert served.clips() == [], "sound may stand between their frames"
    inside = {"at": "encoder", "strategy": "evoprune", "keep": 0.6}
    if CASES["qwen2_5_omni"].missing() is None:
        assert served_plan(config, {"stages": [inside]}).left((1, 10, 12)) == 18
    config.thinker_config.text_config.layer_types = ["sliding_attention"] * 4
    config.thinker_config.text_config.sliding_window = 8
    with pytest.raises(UnsupportedModelError, match="sliding windows"):
        served_plan(config, {"stages": [HALF]})


@pytest.mark.parametrize(
    ("name", "layers"),
    [("qwen2_vl", 4), ("glm4v", 4), ("qwen3_5", 1), ("qwen3_5_moe", 1), ("paddleocr_vl", 4)],
)
def test_the_cache_is_that_of_layers_whose_tokens_are_cached(name: str, layers: int) -> None:
    served = grids(name, HALF)
    assert served.left((1, 10, 12)) == 15
    text = CASES[name].config().text_config
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    assert served.saved == 2 * layers * text.num_key_value_heads * width


def test_every_patch_of_pixtral_in_a_llava_is_a_token() -> None:
    config = CASES["llava_pixtral"].config()
    served = served_plan(config, {"positions": "compact", "stages": [{**HALF, "keep": 20}]})
    shown = {picture.size: (picture.dense, picture.left) for picture in served.pictures()}
    side = 8 * config.vision_config.patch_size
    assert shown[f"{side} x {side}"] == (64, 20)


def test_slices_count_with_their_overview() -> None:
    config = CASES["minicpmv4_6"].config()
    served = served_plan(config, {"positions": "compact", "stages": [HALF]})
    assert isinstance(served, ServedSlices)
    assert served.left([(2, 4), (4, 4), (4, 4)]) == 20
    assert served.left([(3, 5)]) == 7
    kept, index = served.kept(torch.randn(40, 4), [(2, 4), (4, 4), (4, 4)])
    assert kept.shape == (20, 4)
    assert index.tolist() == sorted(set(index.tolist()))
    each = {"positions": "compact", "stages": [{**HALF, "keep": {"per_tile": 4}}]}
    assert served_plan(config, each).left([(2, 4), (4, 4), (4, 4)]) == 12
    sizes = {picture.size: picture.dense for picture in served.pictures()}
    assert sizes["128 x 128"] == 64
    assert sizes["9 slices of 128 x 128"] == 640


def test_clips_count_by_frames_and_their_newline_stays() -> None:
    served = tiles("llava_onevision", {**HALF, "keep": 3}).frames
    assert served is not None
    assert served.left(6) == 6 * 3 + 1
    features = torch.arange(6.0 * served.side**2 + 1)[:, None].expand(-1, 4)
    left = served.kept(features)
    assert len(left) == 19
    assert left[-1, 0] == features[-1, 0]
    assert tiles("llava_next", HALF).clips() == []
    config = CASES["llava_next_video"].config()
    alone = served_plan(config, {"positions": "compact", "stages": [HALF]})
    assert [clip.left for clip in alone.pictures() + alone.clips()] == [16, 64]
    with pytest.raises(BudgetError, match="3200 of 128"):
        served_plan(config, {"positions": "compact", "stages": [{**HALF, "keep": 100}]})


@pytest.mark.parametrize("grid", [(1, 6, 10), (3, 6, 10)])
def test_what_is_left_of_a_grid_is_of_its_places_at_all_depths(grid: tuple[int, int, int]) -> None:
    served = grids("qwen3_vl", HALF)
    features = torch.randn(grid[0] * 15, 3 * 4)
    kept, index = served.kept(features, grid, 4)
    assert kept.shape == (grid[0] * 15 // 2, 3 * 4)
    assert index.tolist() == sorted(set(index.tolist()))
    assert torch.equal(kept, features[index]), "all depths of one token"


def test_random_draws_as_attached() -> None:
    drawn = {"at": "pre_llm", "strategy": "random", "keep": 6}
    features = torch.arange(80.0)[:, None].expand(-1, 4)
    # attach follows no tower for such a plan, so it draws at layer 0 of the second kind of stage
    index = draw(15, 6, (0, 0, 1, 0), features.device)
    kept = grids("qwen3_vl", drawn).kept(features[:15], (1, 6, 10), 4)[0]
    assert kept[:, 0].tolist() == index.tolist()
    served, size = tiles("llava_next", drawn), (64, 64)
    places = served.places(size)
    units = [at for at in range(places.count) if at not in places.others]
    index = draw(80, 6, (0, 0, 1, 0), features.device)
    left = served.kept(torch.arange(float(places.count))[:, None], size)[:, 0].tolist()
    assert [at for at in left if at not in places.others] == [units[at] for at in index.tolist()]


@given(st.lists(st.integers(0, 10**6), min_size=3, max_size=3), st.booleans(), st.data())
def test_offsets_survive_half_precision(
    offsets: list[int], clip: bool, data: st.DataObject
) -> None:
    like = torch.zeros(1, dtype=data.draw(st.sampled_from([torch.bfloat16, torch.float16])))
    found, kind = read(written(torch.tensor([offsets]), like, clip=clip))
    assert (found[:, 0].tolist(), kind) == (offsets, clip)


def test_frames_stand_apart_in_time() -> None:
    index = torch.tensor([0, 5, 6, 17])
    found = placed(index, (3, 2, 3), moments(3, 1.5))
    assert found.tolist() == [[0, 0, 0], [0, 1, 2], [1, 0, 0], [3, 1, 2]]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 3))
def test_words_stand_among_frames(lengths: list[int], high: int, wide: int) -> None:
    words, grid, side = Words.around(lengths, max(high, wide)), (1, high, wide), max(high, wide)
    at, offsets, starts = 0, [], []
    for length in lengths:
        offsets += range(at, at + length - 1)
        starts.append(at + length - 1)
        offsets.append(at + length - 1 + side)
        at += length + side
    assert words.offsets.tolist() == [[one] * 3 for one in offsets]
    assert words.starts.tolist() == [[one] * 3 for one in starts]
    grid = (len(lengths), high, wide)
    index = torch.arange(grid[0] * high * wide)
    where = torch.cat((placed(index, grid, words.starts), words.offsets))
    order = words.order(index, grid)
    first = where[order][:, 0].tolist()
    assert first == sorted(first)
    assert sorted(order.tolist()) == list(range(len(order)))


def test_the_clip_of_most_places() -> None:
    per_frame = grids("qwen2_5_vl", {**HALF, "keep": 4})
    assert per_frame.most(100, 30, 0) == 16 * 4, "30 frames have 3 tokens each, 16 have 6"
    assert per_frame.most(100, 10, 2) == 10 * (4 + 2)
    assert grids("qwen2_5_vl", HALF).most(100, 30, 0) == 50
    assert grids("qwen2_5_vl", {**HALF, "keep": 400}).most(100, 30, 0) == 0, "none is served"


@pytest.mark.parametrize(
    ("name", "plan", "error", "words"),
    [
        ("llava_next", {"stages": [HALF]}, PlanError, "positions: compact"),
        ("llava_next", {"positions": "compact", "stages": [HALF]}, PlanError, "separators: keep"),
        ("qwen3_vl", {"positions": "compact", "stages": [HALF]}, PlanError, "time, height"),
        (
            "llava_next",
            {**TILES, "stages": [{"at": "encoder", "strategy": "tome", "keep": 9}]},
            PlanError,
            "inside the tower",
        ),
        (
            "qwen2_5_vl",
            {"stages": [{"at": "decoder", "strategy": "fastv", "layer": 2, "keep": 9}]},
            PlanError,
            "inside the LLM",
        ),
        (
            "llava_next",
            {**TILES, "stages": [{"at": "pre_llm", "strategy": "fopru", "keep": 0.5}]},
            SignalError,
            "isn't there in vLLM",
        ),
        ("qwen3_vl", {"stages": [{**HALF, "keep": 5000}]}, BudgetError, "5000"),
        ("qwen3_vl", {"images": "frames", "stages": [HALF]}, PlanError, "images: separate"),
        ("exaone4_5", {"stages": [HALF]}, UnsupportedModelError, "exaone4_5.*sliding windows"),
        ("llama4", {"stages": [HALF]}, UnsupportedModelError, "llama4.*in chunks"),
        ("lighton_ocr", {"stages": [HALF]}, UnsupportedModelError, "config for that of a Mistral"),
        ("ovis2", {"stages": [HALF]}, UnsupportedModelError, "'ovis2' aren't served: vLLM runs"),
        ("ernie4_5_vl_moe", {"stages": [HALF]}, UnsupportedModelError, "the hub's own code"),
        ("cohere_compass", {"stages": [HALF]}, UnsupportedModelError, "compass.*sliding windows"),
        ("fast_vlm", {"stages": [HALF]}, UnsupportedModelError, "'fast_vlm' aren't served[.]"),
    ],
)
def test_what_is_not_served(
    name: str, plan: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        served_plan(CASES[name].config(), plan)


def engine_config() -> tuple[Any, Any, Any]:
    """What is read of an engine's config, its part for pictures and its part for ranks."""
    multimodal = SimpleNamespace(video_pruning_rate=None)
    parallel = SimpleNamespace(worker_cls="auto", pipeline_parallel_size=1)
    model = SimpleNamespace(multimodal_config=multimodal)
    return SimpleNamespace(model_config=model, parallel_config=parallel), multimodal, parallel


def test_positions_that_would_reach_the_first_rank_alone_are_refused() -> None:
    config, _, parallel = engine_config()
    parallel.pipeline_parallel_size = 2
    for on_cpu in (False, True):
        with pytest.raises(UnsupportedModelError, match="first rank alone"):
            let_pictures_bring_positions(config, on_cpu=on_cpu)


def test_attention_in_fp8_is_refused_where_a_plan_acts_in_a_tower() -> None:
    multimodal = SimpleNamespace(mm_encoder_attn_dtype=None)
    refuse_narrow_attention(multimodal)
    multimodal.mm_encoder_attn_dtype = "fp8"
    with pytest.raises(UnsupportedModelError, match="own type"):
        refuse_narrow_attention(multimodal)


def test_prompts_that_are_made_without_the_plan_are_refused() -> None:
    refuse_other_prompts(in_rust=False)
    with pytest.raises(UnsupportedModelError, match="in Rust makes prompts without the plan"):
        refuse_other_prompts(in_rust=True)


@pytest.mark.parametrize(("name", "kind"), [("idefics3", "image"), ("qwen3_vl", "video")])
def test_an_engine_without_an_llm_has_no_words_among_tokens(name: str, kind: str) -> None:
    limits = {"image": 1, "video": 1}
    multimodal = SimpleNamespace(mm_encoder_only=True, get_limit_per_prompt=limits.get)
    refuse_no_llm(multimodal, WORDED.get("internvl"))
    with pytest.raises(UnsupportedModelError, match=f"{kind}s, and their embeddings are the LLM's"):
        refuse_no_llm(multimodal, WORDED[name])
    limits[kind] = 0
    refuse_no_llm(multimodal, WORDED[name])
    limits[kind], multimodal.mm_encoder_only = 1, False
    refuse_no_llm(multimodal, WORDED[name])


def test_engines_on_a_cpu_get_a_worker_that_asks_for_positions() -> None:
    config, multimodal, parallel = engine_config()
    let_pictures_bring_positions(config, on_cpu=False)
    assert multimodal.video_pruning_rate > 0
    assert parallel.worker_cls == "auto"
    let_pictures_bring_positions(config, on_cpu=True)
    assert parallel.worker_cls == CPU_WORKER
    parallel.worker_cls = "my.Worker"
    with pytest.raises(UnsupportedModelError, match="worker"):
        let_pictures_bring_positions(config, on_cpu=True)


@pytest.mark.parametrize(
    ("name", "rest", "shown"),
    [
        ("llava_next", TILES, {"64 x 64": ("88", "14"), "64 x 32": ("52", "10")}),
        ("qwen3_vl", {}, {"64 x 64": ("64", "6"), "384 x 288": ("1728", "6")}),
        ("qwen2_5_vl", {}, {"16 frames, 96 x 96": ("1152", "48")}),
    ],
)
def test_the_command_line_tells_the_counts_by_size(
    name: str, rest: dict[str, Any], shown: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    config = CASES[name].config()
    config.architectures = [CASES[name].model_class]
    config.save_pretrained(tmp_path)
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump({**rest, "stages": [UNIFORM]}))
    code, out = run("vllm", "check", plan, tmp_path)
    assert code == 0, out
    rows = [line.split() for line in out.splitlines()]
    for size, counts in shown.items():
        words = size.split()
        (row,) = [row[1:] for row in rows if row[1 : len(words) + 1] == words]
        assert [row[len(words) + 1], row[len(words) + 3]] == list(counts)
    code, out = run("vllm", "args", plan, tmp_path)
    overrides = json.loads(out[out.index("{") : out.rindex("}") + 1])
    assert overrides["architectures"] == [f"Tokenprune{CASES[name].model_class}"]
