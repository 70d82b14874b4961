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
from tokenprune_adapters.vllm.grids import CHANNELS, ServedGrids, read, written
from tokenprune_adapters.vllm.hook import let_pictures_bring_positions, started
from tokenprune_adapters.vllm.names import CPU_WORKER
from tokenprune_adapters.vllm.serving import served_plan
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


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision", "llava_onevision-resized"])
@pytest.mark.parametrize("size", [(64, 64), (32, 90), (70, 41)])
def test_tokens_of_tiles(name: str, size: tuple[int, int]) -> None:
    case: Any = CASES[name]
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


def test_what_is_left_of_a_grid_brings_its_places_and_depths() -> None:
    served, grid = grids("qwen3_vl", HALF), (1, 6, 10)
    features = torch.randn(15, 3 * 4)
    kept = served.kept(features, grid, 4)
    assert kept.shape == (7, 3 * 4 + CHANNELS)
    rows, columns = read(kept[:, -CHANNELS:])
    index = rows * 5 + columns
    assert index.tolist() == sorted(set(index.tolist()))
    assert torch.equal(kept[:, : 3 * 4], features[index]), "all depths of one token"


def test_random_draws_as_attached() -> None:
    drawn = {"at": "pre_llm", "strategy": "random", "keep": 6}
    features = torch.arange(80.0)[:, None].expand(-1, 4)
    # attach follows no tower for such a plan, so it draws at layer 0 of the second kind of stage
    index = draw(15, 6, (0, 0, 1, 0), features.device)
    kept = grids("qwen3_vl", drawn).kept(features[:15], (1, 6, 10), 4)
    assert kept[:, 0].tolist() == index.tolist()
    served, size = tiles("llava_next", drawn), (64, 64)
    places = served.places(size)
    units = [at for at in range(places.count) if at not in places.others]
    index = draw(80, 6, (0, 0, 1, 0), features.device)
    left = served.kept(torch.arange(float(places.count))[:, None], size)[:, 0].tolist()
    assert [at for at in left if at not in places.others] == [units[at] for at in index.tolist()]


@given(st.integers(1, 4000), st.integers(1, 4000), st.data())
def test_places_survive_half_precision(height: int, width: int, data: st.DataObject) -> None:
    index = torch.tensor([data.draw(st.integers(0, height * width - 1))])
    like = torch.zeros(1, dtype=data.draw(st.sampled_from([torch.bfloat16, torch.float16])))
    found = read(written(index, (1, height, width), like))
    assert found.tolist() == [[int(index) // width], [int(index) % width]]


@pytest.mark.parametrize(
    ("name", "plan", "error", "words"),
    [
        ("llava_next", {"stages": [HALF]}, PlanError, "positions: compact"),
        ("llava_next", {"positions": "compact", "stages": [HALF]}, PlanError, "separators: keep"),
        ("qwen3_vl", {"positions": "compact", "stages": [HALF]}, PlanError, "time, height"),
        (
            "qwen2_5_vl",
            {"stages": [{"at": "encoder", "strategy": "tome", "keep": 9}]},
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
        ("qwen2_vl", {"stages": [HALF]}, UnsupportedModelError, "qwen2_vl"),
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
        (row,) = [row for row in rows if row[1:4] == size.split()]
        assert [row[5], row[7]] == list(counts)
    code, out = run("vllm", "args", plan, tmp_path)
    overrides = json.loads(out[out.index("{") : out.rindex("}") + 1])
    assert overrides["architectures"] == [f"Tokenprune{CASES[name].model_class}"]
