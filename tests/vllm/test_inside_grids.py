"""Plans inside the towers of Qwen-VL and GLM without an engine: counts, refusals, what travels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenprune_adapters.vllm.grids import ServedGrids
from tokenprune_adapters.vllm.packed_towers import VllmPackedAdapter
from tokenprune_adapters.vllm.planned_tower import laid, taken
from tokenprune_adapters.vllm.serving import served_plan

import tokenprune
from tests.families.cases import CASES
from tokenprune.errors import (
    BudgetError,
    LayerError,
    PlanError,
    SignalError,
    UnsupportedModelError,
)

FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v", "glm_ocr", "paddleocr_vl"]
MERGED = {"at": "encoder", "strategy": "evoprune", "keep": 0.6}
ATTENDED = {"at": "pre_llm", "strategy": "fopru", "keep": 0.5}
RESTORED = {"at": "encoder", "strategy": "ipcv", "layer": 2, "keep": 0.5}


def grids(name: str, *stages: dict[str, Any]) -> ServedGrids:
    served = served_plan(CASES[name].config(), {"stages": list(stages)})
    assert isinstance(served, ServedGrids)
    return served


@pytest.mark.parametrize("name", FAMILIES)
def test_the_counts(name: str) -> None:
    patches = (1, 10, 12)  # 30 tokens
    assert grids(name, MERGED).left(patches) == 18
    assert grids(name, ATTENDED).left(patches) == 15
    assert grids(name, MERGED, ATTENDED).left(patches) == 9
    assert grids(name, RESTORED).left(patches) == 30, "all tokens are handed on again"
    assert grids(name, RESTORED, ATTENDED).left(patches) == 15
    first = grids(name, MERGED).pictures()[0]
    side = 128 if name == "paddleocr_vl" else 64
    assert (first.size, first.dense, first.left) == (f"{side} x {side}", 64, 38)


def test_pictures_that_a_budget_does_not_fit() -> None:
    few = grids("qwen2_5_vl", {**MERGED, "keep": 20})
    assert few.left((1, 12, 12)) == 20
    with pytest.raises(BudgetError, match="at most half"):
        few.left((1, 32, 32))
    left = [picture.left for picture in few.pictures()]
    assert left == [20, None, None, None], "two blocks halve at most"
    with pytest.raises(BudgetError, match="at most half"):
        grids("qwen2_5_vl", {**MERGED, "keep": 1})


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("stage", "error", "words"),
    [
        ({**MERGED, "layers": [2, 9]}, LayerError, "blocks 2 to 9"),
        ({**RESTORED, "layer": 1}, LayerError, "needs the input of the block"),
        ({**ATTENDED, "strategy": "fastervlm"}, SignalError, "cls_attention"),
        ({**ATTENDED, "strategy": "trim"}, SignalError, "tower_tokens"),
        ({**ATTENDED, "strategy": "scissor"}, PlanError, "depends on the data"),
    ],
)
def test_what_attach_refuses_is_refused(
    name: str, stage: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        grids(name, stage)
    if stage["strategy"] != "scissor":  # attach reserves no places
        with pytest.raises(error):
            tokenprune.attach(CASES[name].build(torch.float32, "sdpa"), {"stages": [stage]})


@given(st.integers(0, 128**3 - 1), st.sampled_from([torch.bfloat16, torch.float16]))
def test_places_survive_half_precision(place: int, dtype: torch.dtype) -> None:
    first, second = torch.randn(2, 3, 4, dtype=dtype)
    index = torch.tensor([place, 0, 1])
    rows, found = taken(laid([first, second], index, 5).to(dtype), 3)
    index, order = index.sort(stable=True)
    assert torch.equal(found, index)
    assert torch.equal(rows, torch.cat((first[order], second[order]), dim=-1))


def test_borders_where_an_attention_is_given_places_in_memory() -> None:
    """FlashInfer gets lengths of segments, filled up with zeros, beside borders that are none."""
    adapter: Any = SimpleNamespace()
    borders = torch.tensor([0, 8, 12], dtype=torch.int32)
    plain = {"cu_seqlens": borders, "sequence_lengths": None}
    assert VllmPackedAdapter.borders(adapter, (), plain) is borders
    lengths = torch.tensor([8, 4, 0, 0], dtype=torch.int32)
    scaled = {"cu_seqlens": 64 * borders.repeat(2), "sequence_lengths": lengths}
    assert VllmPackedAdapter.borders(adapter, (), scaled).tolist() == [0, 8, 12]


def test_towers_of_other_classes_are_refused() -> None:
    tower = CASES["qwen3_vl"].build(torch.float32, "sdpa").model.visual
    with pytest.raises(UnsupportedModelError, match="isn't supported"):
        VllmPackedAdapter(tower)
