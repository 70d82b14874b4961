"""Gradient checkpointing: what the backward pass runs again are the layers on the tokens left."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tokenprune
from tests import models
from tests.families.calls import case_of
from tests.families.cases import CASES
from tests.families.cells import UNFOLLOWED
from tests.families.plans import decoder, plan
from tests.mllm.calls import SHORT, inputs
from tests.mllm.plans import COMBINATIONS
from tokenprune.errors import UnsupportedCallError

pytestmark = [
    pytest.mark.versions,
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated"),
]

INSIDE = type(models.llava_clip().model.language_model.layers[0]).__call__ is nn.Module.__call__
"""Whether the installed transformers checkpoints inside of the forward (5.23 and newer)."""
newer = pytest.mark.skipif(not INSIDE, reason="transformers checkpoints around its layers")
RESIZED = ("llava_onevision-resized",)
"""Cases whose tokens can't be followed through their tower."""


def gradients(model: Any, call: dict[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    model(**call, labels=call["input_ids"], use_cache=False).loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def runs(model: nn.Module, layer: nn.Module, call: dict[str, Tensor]) -> tuple[Any, int]:
    """Gradients, and how often the layer's attention ran for them."""
    count = 0

    def ran(*_: Any) -> None:
        nonlocal count
        count += 1

    handle = layer.get_submodule("self_attn").register_forward_hook(ran)
    found = gradients(model, call)
    handle.remove()
    return found, count


def clip_blocks(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if type(module).__name__ == "CLIPEncoderLayer"]


def noted(ran: list[int], number: int, *_: Any) -> None:
    ran.append(number)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(math.isfinite(float(g.sum())) for g in one.values())
    for name, gradient in one.items():
        torch.testing.assert_close(other[name], gradient, rtol=1e-5, atol=1e-6, msg=name)


@newer
@pytest.mark.parametrize("name", [name for name in CASES if name not in RESIZED])
def test_every_family_has_the_gradients_of_a_run_without(name: str) -> None:
    case = case_of(name)
    call, late = case.inputs("several"), decoder(name, 0.5)
    early = {"strategy": "divprune", "at": "pre_llm", "keep": 0.5}
    inside = {"strategy": "tome", "at": "encoder", "keep": 0.5}
    model = case.create().train()
    stages = (early, late) if name in UNFOLLOWED else (inside, early, late)
    with tokenprune.attach(model, plan(*stages)):
        want = gradients(model, call)
        model.gradient_checkpointing_enable({"use_reentrant": False})
        same(want, gradients(model, call))


@newer
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["encoder", "pre_llm", "decoder", "pyramid", "all", "compact"])
def test_layers_run_twice_and_plans_act_once(name: str, reentrant: bool) -> None:
    model, call = models.llava_clip().train(), inputs(SHORT)
    model.enable_input_require_grads()
    last = model.model.language_model.layers[-1]
    with tokenprune.attach(model, COMBINATIONS[name]) as handle:
        want, once = runs(model, last, call)
        before = handle.report()
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        found, twice = runs(model, last, call)
        same(want, found)
        assert (once, twice) == (1, 2)
        assert handle.report().calls == 2 * before.calls
        assert handle.report().tokens == before.tokens


@newer
def test_an_encoder_alone_has_the_gradients_of_a_run_without() -> None:
    """Blocks from a merge on, which are run in halves, are kept; those in front run twice."""
    model, pixels, ran = models.clip_vision().train(), models.pixels(), list[int]()
    # in front of each feed-forward half, which runs in split blocks too
    for number, block in enumerate(clip_blocks(model)):
        block.mlp.register_forward_pre_hook(partial(noted, ran, number))

    def found() -> dict[str, Tensor]:
        model.zero_grad()
        model(pixels).last_hidden_state.square().sum().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    inside = {"strategy": "tome", "at": "encoder", "keep": 18, "layers": [1, 1]}
    with tokenprune.attach(model, plan(inside)):
        want = found()
        assert ran == [0, 1, 2, 3]
        ran.clear()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        same(want, found())
        assert [ran.count(number) for number in range(4)] == [2, 1, 1, 1]


@pytest.mark.skipif(INSIDE, reason="transformers checkpoints inside of its layers")
@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_checkpoints_around_layers_are_refused_while_training(name: str) -> None:
    model, call = models.llava_clip().train(), inputs(SHORT)
    model.gradient_checkpointing_enable()
    with (
        tokenprune.attach(model, COMBINATIONS[name]),
        pytest.raises(UnsupportedCallError, match=r"around the forward of .*5\.23 and newer"),
    ):
        model(**call)
    model.eval()
    with tokenprune.attach(model, COMBINATIONS[name]), torch.no_grad():
        model(**call)
