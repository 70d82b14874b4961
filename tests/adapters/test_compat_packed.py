"""Names and formulas inside transformers that packed towers are read by."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import pytest
import torch
from tokenprune_adapters.transformers import packed_names as names
from tokenprune_adapters.transformers.packed import PackedVisionAdapter
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import tokenprune
from tests.adapters.packed_oracle import inputs
from tests.adapters.variants import adapted
from tests.packed import (
    GRIDS,
    MEMBERS,
    TOWERS,
    UNIT_WIDTH,
    UNITS,
    call,
    grids_of,
    plan,
    tower,
)
from tokenprune.errors import UnsupportedCallError, UnsupportedModelError

PARTS = {"norm1", "norm2", "attn", "mlp"}
LATER = ("dots3_note",)
"""Families that some supported releases don't have yet."""


@pytest.mark.parametrize("family", TOWERS)
def test_a_tower_has_the_parts_that_are_read_and_no_others(family: str) -> None:
    model = tower(family)
    adapter = adapted(model)
    assert isinstance(adapter, PackedVisionAdapter)
    for block in names.blocks(model):
        assert {name for name, _ in block.named_children()} == PARTS
        normed = {"q_norm", "k_norm"} if family == "glm_ocr" else set()
        parts = {"qkv"} if hasattr(block.attn, "qkv") else {"q", "k", "v"}
        assert {name for name, _ in block.attn.named_children()} == {*parts, "proj", *normed}
        assert not dict(block.named_parameters(recurse=False))
        assert block.attn.scaling == (block.attn.proj.in_features // block.attn.num_heads) ** -0.5
    spec = adapter.spec()
    assert (spec.width, spec.prefix, spec.packed) == (UNIT_WIDTH, 0, True)
    exits = getattr(model, "deepstack_visual_indexes", ())
    assert len(spec.exits) == 1 + len(exits)
    assert [model.merger, *getattr(model, "deepstack_merger_list", ())] == list(spec.exits)


def test_every_tower_of_the_library_that_is_like_these_is_known() -> None:
    """Classes are matched exactly; a renamed one would be refused, and is found out here."""
    for full in (*names.TOWERS, *names.BLOCKS, *names.ATTENTIONS, *names.ERNIE_TOWERS):
        module, _, name = full.rpartition(".")
        package = module.rpartition(".")[0]
        if find_spec(package) is None and package.endswith(LATER):
            continue
        assert hasattr(importlib.import_module(module), name), full


@pytest.mark.parametrize("family", TOWERS)
def test_what_grids_decide_is_made_by_the_towers_own_functions(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the tower asks them for it is given ready-made, and it is what they make."""
    model, given, made = tower(family), call(grids_of(family)), list[str]()
    module = importlib.import_module(type(model).__module__)
    makers = [name for name in vars(module) if name.startswith("get_vision_")]
    assert makers

    def noted(make: Any) -> Any:
        def noting(*args: Any, kwargs: dict[str, Any], **named: Any) -> Any:
            ready, fresh = len(kwargs), make(*args, kwargs={}, **named)
            found = make(*args, kwargs=kwargs, **named)
            assert len(kwargs) < ready
            assert all(map(torch.equal, _parts(found), _parts(fresh)))
            made.append(make.__name__)
            return found

        return noting

    known = names.foreseen(model, given["grid_thw"], {})
    for name in makers:
        monkeypatch.setattr(module, name, noted(getattr(module, name)))
    with torch.no_grad():
        model(**given, **known)
    assert sorted(made) == sorted(makers)


def _parts(found: Any) -> list[Tensor]:
    parts = found if isinstance(found, tuple) else (found,)
    return [part for part in parts if part is not None]


def test_a_callers_own_order_of_windows_stays() -> None:
    model, grids = tower("qwen2_5_vl"), call()["grid_thw"]
    found = names.foreseen(model, grids, {})
    assert sorted(found[names.ORDER].tolist()) == list(range(UNITS))
    assert found[names.ORDER].tolist() != list(range(UNITS))
    own = {names.ORDER: found[names.ORDER].flip(0), names.ORDER_BORDERS: torch.zeros(2)}
    assert torch.equal(names.foreseen(model, grids, own)[names.ORDER], own[names.ORDER])


def test_packing_is_read_from_the_call_however_it_is_given() -> None:
    model, given = tower("qwen2_5_vl"), call()
    adapter: Any = adapted(model)
    packing = adapter.packing((), given)
    assert packing.grids == [(t, h // 2, w // 2) for t, h, w in GRIDS]
    assert (packing.members, packing.units) == (MEMBERS, UNITS)
    assert torch.equal(adapter.packing(tuple(given.values()), {}).place, packing.place)


@pytest.mark.parametrize("family", TOWERS)
@torch.no_grad()
def test_halves_equal_the_block(family: str) -> None:
    model, given = tower(family), call(grids_of(family))
    adapter: Any = adapted(model)
    for block, (hidden, arguments) in zip(model.blocks, inputs(model, given), strict=True):
        expected = block(hidden, **arguments)
        query, key, value = adapter.heads(block, hidden[None])
        query, key = adapter.rotate(query, key, (), arguments)
        edges = adapter.borders((), arguments).tolist()
        parts = [
            scaled_dot_product_attention(*(part[:, :, start:end] for part in (query, key, value)))
            for start, end in pairwise(edges)
        ]
        joined = adapter.join(block, hidden[None], torch.cat(parts, dim=2))
        torch.testing.assert_close(adapter.feed_forward(block, joined)[0], expected)
        assert float((expected - hidden).abs().max()) > 0.05


def test_arguments_are_cut_to_the_rows_that_are_left() -> None:
    borders = torch.tensor([0, 4, 8, 12], dtype=torch.int32)
    turning = torch.arange(12.0)[:, None]
    rows = torch.tensor([0, 1, 2, 3, 9, 10])
    cut = names.cut({names.BORDERS: borders, names.ROTARY: (turning, -turning), "more": 1}, rows)
    assert cut[names.BORDERS].tolist() == [0, 4, 6]
    assert cut[names.BORDERS].dtype == torch.int32
    assert [part[:, 0].tolist() for part in cut[names.ROTARY]] == [rows.tolist(), (-rows).tolist()]
    assert cut["more"] == 1


def test_dropout_and_other_blocks_are_refused() -> None:
    model = tower("qwen2_vl")
    adapter = adapted(model)
    block: Any = model.blocks[0]
    block.attn.attention_dropout = 0.1
    hidden = torch.zeros(1, MEMBERS, UNIT_WIDTH // MEMBERS)
    try:
        adapter.heads(block, hidden)
        block.train()
        with pytest.raises(UnsupportedCallError, match="dropout"):
            adapter.heads(block, hidden)
    finally:
        block.eval()
        block.attn.attention_dropout = 0.0
    other = type("Other", (type(block),), {})
    kind, block.__class__ = type(block), other
    try:
        with pytest.raises(UnsupportedModelError, match="'Other' isn't supported"):
            tokenprune.attach(model, plan({"strategy": "tome", "keep": 0.5}))
    finally:
        block.__class__ = kind
