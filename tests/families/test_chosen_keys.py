"""MiniMax M3: layers that choose blocks of keys choose among those that are left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.contract.cases import shipped, stage_of
from tests.families.calls import case_of, logits
from tests.families.case import Case
from tests.families.fate import gone
from tests.families.models.minimax import MiniMax
from tests.families.plans import layers, plan, staged
from tests.families.test_steps import SCORES, apart, reference
from tokenprune.errors import SignalError, UnsupportedCallError, UnsupportedModelError

NAME, EXACT = "minimax_m3_vl", 1e-9
NEW: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}


def choosing(**changes: Any) -> Case:
    """The family's case, whose queries see two blocks of four keys."""
    case = case_of(NAME)
    assert isinstance(case, MiniMax)
    return replace(case, **{"block": 4, "most": 2, **changes})


@contextmanager
def counted(model: Any) -> Iterator[None]:
    """The plain model, whose layers number the tokens that they are given."""

    def without(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "position_ids": None}

    hooks = [layer.register_forward_pre_hook(without, with_kwargs=True) for layer in layers(model)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def test_blocks_are_chosen_in_the_fixture() -> None:
    few, all_of_them = choosing(), choosing(most=16)
    call = few.inputs("one", "none")
    model = few.create()
    assert float((logits(model, call) - logits(all_of_them.create(), call)).abs().max()) > 1e-4


@pytest.mark.parametrize("sparse", [0, 3])
def test_a_shortened_prompt_is_one_whose_layers_count_what_is_left(sparse: int) -> None:
    case = choosing(sparse=sparse)
    model, call = case.create(torch.float64), case.inputs("one", "none", torch.float64)
    out = {"output_logits": True, "return_dict_in_generate": True}
    with tokenprune.attach(model, staged(NAME, "pre_llm", 0.5)) as handle:
        made = model.generate(**call, **NEW, **out)
        removed = gone(case, handle.trace, call["input_ids"], case.prompts("one", "none"))
        assert torch.equal(model.generate(**call, **NEW, use_cache=False), made.sequences)
    kept = (~removed[0]).nonzero()[:, 0]
    tokens = made.sequences[0, call["input_ids"].shape[1] :]
    with counted(model):
        expected = reference(model, call, kept, tokens)
    assert len(kept) < call["input_ids"].shape[1]
    assert apart(list(made.logits), expected) < SCORES


def test_a_layer_behind_a_cut_counts_what_is_left() -> None:
    case = choosing()
    model, call = case.create(torch.float64), case.inputs("one", "none", torch.float64)
    given: dict[str, Any] = {}
    hook = layers(model)[2].register_forward_pre_hook(
        lambda _, args, kwargs: given.update(kwargs, hidden=args[0]), with_kwargs=True
    )
    logits(model, call)
    hook.remove()
    with tokenprune.attach(model, staged(NAME, "decoder", 0.5)) as handle:
        short = logits(model, call)
        removed = gone(case, handle.trace, call["input_ids"], case.prompts("one", "none"))
        cached = model.generate(**call, **NEW)
        assert torch.equal(model.generate(**call, **NEW, use_cache=False), cached)
    kept = (~removed[0]).nonzero()[:, 0]
    states: Tensor = given["hidden"][:, kept]
    rotary = tuple(part[:, kept] for part in given["position_embeddings"])
    with torch.no_grad():
        for layer in layers(model)[2:]:
            states = layer(states, attention_mask=None, position_embeddings=rotary)
        expected = model.lm_head(model.model.language_model.norm(states))
    assert float((short[:, kept] - expected).abs().max()) < EXACT


@pytest.mark.parametrize("padding", ["left", "none"])
def test_keeping_all_leaves_the_choice_as_it_is(padding: str) -> None:
    """Also where padding in front moves the blocks, which the plain model doesn't heed."""
    case = choosing(sparse=0)
    model, call = case.create(), case.inputs("several", padding)
    out = {"output_logits": True, "return_dict_in_generate": True}
    dense = torch.stack(model.generate(**call, **NEW, **out).logits)
    for stages in ("pre_llm", "decoder", "both"):
        with tokenprune.attach(model, staged(NAME, stages, 1.0)):
            assert torch.equal(torch.stack(model.generate(**call, **NEW, **out).logits), dense)


def test_what_choosing_layers_cant_give_is_refused() -> None:
    model, call = choosing(sparse=1).create(), case_of(NAME).inputs("one")
    ahead = stage_of(shipped()["pyramiddrop"], "decoder")
    with pytest.raises(SignalError, match="chooses by itself which blocks of keys"):
        tokenprune.attach(model, plan(ahead))
    # which trims the caches of layers in front of it
    trims = {"strategy": "prunevid", "at": "decoder", "layer": 2, "keep": 0.5}
    static = {"cache_implementation": "static"}
    for stage, how, why in (
        (trims, {}, "MiniMaxM3VLSparseCacheLayer, can't be cut"),
        ({**trims, "strategy": "fastv"}, static, "can't be filled with what a plan leaves"),
    ):
        with (
            tokenprune.attach(model, plan(stage)),
            pytest.raises(UnsupportedCallError, match=why),
        ):
            model.generate(**call, **NEW, **how)


@pytest.mark.parametrize("stage", ["encoder", "pre_llm"])
def test_a_tower_that_mixes_pictures_is_refused(stage: str) -> None:
    """That of older releases, also where a strategy reads its signals."""
    model = case_of(NAME).create()
    del model.model.vision_tower.spatial_merge_size
    with pytest.raises(UnsupportedModelError, match="the pictures of a call see one another"):
        tokenprune.attach(model, plan({"strategy": "fopru", "at": stage, "keep": 0.5}))
