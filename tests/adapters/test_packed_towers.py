"""Plans inside packed towers: whole units leave and merge, against loops and full-length runs."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import pytest
import torch

import tokenprune
from tests.adapters.packed_oracle import How, Loop, hidden_units, removed
from tests.contract.cases import footprint
from tests.packed import GRIDS, MEMBERS, TOWERS, UNITS, call, grids_of, plan, run, tower
from tokenprune.errors import BudgetError, PlanError, UnsupportedCallError
from tokenprune.interface.sites import Grid

EXACT = 1e-9
DROPPING: dict[str, dict[str, Any]] = {
    "random": {"strategy": "random"},
    "uniform": {"strategy": "uniform", "layer": 1},
    "fopru": {"strategy": "fopru"},
}
MERGING: dict[str, dict[str, Any]] = {
    "evoprune": {"strategy": "evoprune", "layers": [0, 3]},
    "tome": {"strategy": "tome"},
    "tome-bare": {"strategy": "tome", "params": {"proportional_attention": False}},
}
RESTORING = {"strategy": "ipcv", "layer": 2, "params": {"stabilise": 1, "neighbours": 2}}
ALL = {**DROPPING, **MERGING, "ipcv": RESTORING}
KINDS = ("fopru", "tome", "ipcv")
"""One that drops, one that merges and one that restores, each by what it reads of the tower."""


def met(stages: Iterable[str] = ALL, families: Iterable[str] = TOWERS) -> list[Any]:
    """Families and stages: every family meets a stage of every kind, one with windows meets all.

    Stages of a kind differ in how they choose, which is no family's own.
    """
    pairs = product(families, stages)
    return [
        pytest.param(family, ALL[name], id=f"{family}-{name}")
        for family, name in pairs
        if family == "qwen2_5_vl" or name in KINDS
    ]


def kept(keep: float, grids: Sequence[Grid] = GRIDS) -> list[int]:
    """Units that are left of every picture; frames are left equally many."""
    return [t * round(keep * h * w / MEMBERS) for t, h, w in grids]


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(left, right, strict=True))


def apart(left: list[torch.Tensor], right: list[torch.Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize(("family", "stage"), met())
def test_keeping_all_changes_no_bit_and_detaching_leaves_nothing(
    family: str, stage: dict[str, Any]
) -> None:
    model, given = tower(family), call(grids_of(family))
    dense, before = run(model, given), footprint(model)
    with tokenprune.attach(model, plan({**stage, "keep": 1.0})):
        assert same(run(model, given), dense)
    with tokenprune.attach(model, plan({**stage, "keep": 0.5})) as handle:
        short = run(model, given)
        counts = [image.kept for image in handle.trace.images]
        inside = [image.steps[0].kept for image in handle.trace.images]
    whole = [image.patches for image in handle.trace.images]
    assert counts == (whole if stage is RESTORING else kept(0.5, grids_of(family)))
    assert sum(inside) < UNITS
    assert not same(short, dense)
    assert footprint(model) == before
    assert same(run(model, given), dense)


def test_a_copy_is_plain() -> None:
    """Also without what reads the call in front of it."""
    model, given = tower("qwen2_5_vl"), call()
    dense, before = run(model, given), footprint(model)
    with tokenprune.attach(model, plan({"strategy": "tome", "keep": 0.5})):
        copied = copy.deepcopy(model)
    assert footprint(copied) == before
    assert same(run(copied, given), dense)


@pytest.mark.parametrize(("family", "stage"), met(DROPPING))
def test_dropping_units_equals_hiding_them(family: str, stage: dict[str, Any]) -> None:
    model, given = tower(family, torch.float64), call(grids_of(family), torch.float64)
    dense = run(model, given)
    with tokenprune.attach(model, plan({**stage, "keep": 0.4})) as handle:
        short = run(model, given)
    gone = removed(handle.trace.images, len(model.blocks) + 1)
    with hidden_units(model, (gone, given["grid_thw"])):
        full = run(model, given)
    exits = [len(model.blocks), *(at + 1 for at in getattr(model, "deepstack_visual_indexes", ()))]
    for rows, expected, plain, block in zip(short, full, dense, exits, strict=True):
        left = ~gone[block]
        assert float((rows - expected)[left].abs().max()) < EXACT
        assert float((rows - plain)[left].abs().max()) > 1e-3 or block == 1
        assert not bool(rows[~left].any())
    assert bool(gone[len(model.blocks)].any())


@pytest.mark.parametrize(
    ("family", "stage"),
    met(MERGING, ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "exaone4_5", "glm4v", "glm_ocr"]),
)
def test_merging_units_is_what_loops_over_their_members_make(
    family: str, stage: dict[str, Any]
) -> None:
    model, given = tower(family, torch.float64), call(grids_of(family), torch.float64)
    with tokenprune.attach(model, plan({**stage, "keep": 0.4})) as handle:
        short = run(model, given)
    biased = stage.get("params", {}).get("proportional_attention", True)
    expected = Loop(model, given, handle.trace, How(biased=biased)).run()
    assert apart(short, expected) < EXACT
    assert any(len(step.images) > 1 for step in handle.trace.records)
    bare = Loop(model, given, handle.trace, How(biased=not biased)).run()
    assert apart(short, bare) > 1e-3


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "exaone4_5", "glm4v"])
def test_restored_units_follow_their_neighbours_member_by_member(family: str) -> None:
    model, given = tower(family, torch.float64), call(grids_of(family), torch.float64)
    with tokenprune.attach(model, plan({**RESTORING, "keep": 0.4})) as handle:
        short = run(model, given)
    how = How(stabilise=1, neighbours=2)
    assert apart(short, Loop(model, given, handle.trace, how).run()) < EXACT
    assert all(bool(rows.any(dim=1).all()) for rows in short)


@pytest.mark.parametrize("stage", ALL.values(), ids=ALL)
def test_a_call_gives_what_its_pictures_give_alone(stage: dict[str, Any]) -> None:
    model, given = tower(), call()
    with tokenprune.attach(model, plan({**stage, "keep": 0.5})) as handle:
        together = run(model, given)[0]
        anchors = [image.steps[-1].anchor for image in handle.trace.images]
        start = 0
        for number, grid in enumerate(GRIDS):
            alone = run(model, call((grid,)))[0]
            assert torch.equal(handle.trace.image(0).steps[-1].anchor, anchors[number])
            torch.testing.assert_close(
                alone, together[start : start + len(alone)], rtol=1e-4, atol=1e-5
            )
            start += len(alone)


@pytest.mark.parametrize("stage", ALL.values(), ids=ALL)
def test_eager_and_sdpa_agree(stage: dict[str, Any]) -> None:
    found = []
    for attention in ("sdpa", "eager"):
        model = tower("qwen2_5_vl", attention=attention)
        with tokenprune.attach(model, plan({**stage, "keep": 0.5})):
            found.append(run(model, call()))
    assert apart(*found) < 1e-4


def test_bfloat16_and_gradients() -> None:
    model = tower("qwen3_vl", torch.bfloat16)
    with tokenprune.attach(model, plan({"strategy": "tome", "keep": 0.5})):
        short = run(model, call(dtype=torch.bfloat16))
        made = model(**call(dtype=torch.bfloat16)).pooler_output
        made.float().sum().backward()
    assert all(rows.dtype == torch.bfloat16 and bool(rows.isfinite().all()) for rows in short)
    weight = model.blocks[0].attn.qkv.weight
    assert float(weight.grad.abs().sum()) > 0
    model.zero_grad()


def test_budgets_in_tokens_are_those_of_every_picture() -> None:
    model, given = tower(), call()
    with tokenprune.attach(model, plan({"strategy": "random", "keep": 5})) as handle:
        run(model, given)
        assert [image.kept for image in handle.trace.images] == [5, 5, 5, 10]
        tokens = handle.report().tokens
        assert tokens["encoder"] == 5
        assert tokens["patches"] == UNITS / 5
    with (
        tokenprune.attach(model, plan({"strategy": "random", "keep": 11})),
        pytest.raises(BudgetError, match="8"),
    ):
        run(model, given)


def test_two_stages_act_one_behind_the_other() -> None:
    model, given = tower("qwen3_vl"), call()
    first = {"strategy": "tome", "layers": [0, 1], "keep": 0.75}
    second = {"strategy": "random", "layers": [2, 3], "keep": 0.5}
    with tokenprune.attach(model, plan(first, second)) as handle:
        run(model, given)
    strategies = {step.strategy for step in handle.trace.image(1).steps}
    assert strategies == {"tome", "random"}
    assert handle.trace.image(1).kept == int(0.5 * int(0.75 * 20))


def test_refusals() -> None:
    model, given = tower(), call()
    with (
        tokenprune.attach(model, plan({"strategy": "tome", "keep": 0.5})),
        pytest.raises(UnsupportedCallError, match="output_attentions"),
    ):
        model(**given, output_attentions=True)
    with pytest.raises(PlanError, match="images"):
        tokenprune.attach(model, plan({"strategy": "tome", "keep": 0.5}, images="frames"))
