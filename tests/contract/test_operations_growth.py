"""What further grids and further pictures cost in operations: nothing but the strategy's own.

Strategies see dense batches, so pictures of each grid are asked about by themselves; everything
else is done for all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tokenprune
from benchmarks.counting import dispatched
from benchmarks.growing import families
from tests import packed

pytest.importorskip("transformers")

GRIDS = tuple((1, h, w) for h, w in ((8, 8), (8, 10), (4, 8), (8, 12), (6, 8), (12, 12), (4, 20)))
GRIDS = (*GRIDS, (1, 10, 10))
"""Eight grids of rows and columns in patches; no two have equally many units."""
BLOCKS = 4


@pytest.fixture(autouse=True)
def _launching(monkeypatch: pytest.MonkeyPatch) -> None:
    packed.launching(monkeypatch)


def pictures(count: int, grids: int) -> dict[str, Any]:
    return packed.call(tuple(GRIDS[number % grids] for number in range(count)))


def cost(call: Callable[[], Any]) -> int:
    with torch.no_grad():
        call()  # the first call checks what strategies answer
        return len(dispatched(call))


def added(model: Any, plan: dict[str, Any], given: dict[str, Any]) -> int:
    """Operations that a plan adds to a call."""
    dense = cost(lambda: model(**given))
    with tokenprune.attach(model, plan):
        return cost(lambda: model(**given)) - dense


# By site: choosing, saying what is kept or merged, and a call of attention for pictures of a length
# that no other has. IPCV also tells later blocks what the units that it dropped would be.
@pytest.mark.parametrize(
    ("strategy", "limit"),
    [("uniform", 7), ("tome", 4), ("evoprune", 6), ("fopru", 8), ("ipcv", 40)],
)
def test_a_further_grid_costs_what_its_answer_costs(strategy: str, limit: int) -> None:
    tower = packed.tower("qwen2_5_vl")
    plan = packed.plan({"strategy": strategy, "keep": 0.5})
    few, many = (added(tower, plan, pictures(8, grids)) for grids in (4, 8))
    with tokenprune.attach(tower, plan) as handle:
        cost(lambda: tower(**pictures(2, 2)))
        sites = len({record.site for record in handle.trace.records})
    assert 1 <= sites <= BLOCKS
    assert (many - few) / 4 <= limit * sites


@pytest.mark.parametrize("strategy", ["tome", "uniform"])
def test_a_further_picture_of_a_known_grid_costs_its_place_in_the_sequence(strategy: str) -> None:
    tower = packed.tower("qwen2_5_vl")
    plan = packed.plan({"strategy": strategy, "keep": 0.5})
    few, many = (added(tower, plan, pictures(count, 4)) for count in (4, 16))
    # the library's own function, which says where each unit stands, goes picture by picture
    assert (many - few) / 12 <= 9


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        *(("llava", name) for name in ("tome", "fopru", "divprune", "visionzip", "fastv")),
        ("qwen2.5-vl", "divprune"),
    ],
)
def test_further_pictures_of_a_prompt_cost_nothing(name: str, strategy: str) -> None:
    (family,) = (one for one in families(tiny=True) if one.name == name)
    model = family.build()
    few, many = (added(model, family.plan(strategy), family.call(count)) for count in (2, 6))
    assert many - few <= 0


def test_pictures_of_further_sizes_in_front_of_the_llm_cost_what_their_answers_cost() -> None:
    *_, mixed = families(tiny=True)
    model = mixed.build()
    one, few, many = (added(model, mixed.plan("divprune"), mixed.call(n)) for n in (1, 2, 8))
    assert many - few <= 6 * (few - one)


def batch(counts: list[int]) -> dict[str, Any]:
    """LLaVA's prompts of so many pictures each, padded in front."""
    (llava, *_) = families(tiny=True)
    prompts = [llava.call(count) for count in counts]
    longest = max(prompt["input_ids"].shape[1] for prompt in prompts)

    def padded(name: str) -> torch.Tensor:
        rows = (prompt[name] for prompt in prompts)
        return torch.cat([torch.nn.functional.pad(r, (longest - r.shape[1], 0)) for r in rows])

    pixels = torch.cat([prompt["pixel_values"] for prompt in prompts])
    given = {name: padded(name) for name in ("input_ids", "attention_mask")}
    return {**given, "pixel_values": pixels}


@pytest.mark.parametrize("strategy", ["divprune", "fastv"])
def test_further_rows_cost_little_and_further_shapes_of_rows_their_answers(strategy: str) -> None:
    (llava, *_) = families(tiny=True)
    model, plan = llava.build(), llava.plan(strategy)
    few, many, shapes = (
        added(model, plan, batch(counts)) for counts in ([2, 2], [2] * 6, [2, 2, 2, 1, 3, 4])
    )
    assert (many - few) / 4 <= 12
    assert (shapes - many) / 3 <= 55  # with the masks of rows of unequal length
