"""`detach` takes back its own changes only, whoever wrapped the model before or afterwards."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests import models
from tests.mllm.plans import plan, tome
from tokenprune.engine.patching import Patches

hooks = pytest.importorskip("accelerate.hooks", reason="accelerate is no dependency")

PLANS = {"last": plan({**tome(), "schedule": "last"}), "mean": plan({**tome(), "schedule": "mean"})}


class Counting(hooks.ModelHook):  # type: ignore[misc, name-defined]
    """Counts the calls of its module, as hooks that move weights act at every call."""

    def __init__(self) -> None:
        self.before, self.after = 0, 0

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        self.before += 1
        return args, kwargs

    def post_forward(self, module: Any, output: Any) -> Any:
        self.after += 1
        return output


def hooked(model: Any) -> list[Counting]:
    found = [Counting() for _ in model.encoder.layers]
    for layer, hook in zip(model.encoder.layers, found, strict=True):
        hooks.add_hook_to_module(layer, hook)
    return found


@torch.no_grad()
def run(model: Any) -> Tensor:
    output: Tensor = model(models.pixels()).last_hidden_state
    return output


@pytest.mark.parametrize("first", ["hooks", "plan"])
@pytest.mark.parametrize("schedule", PLANS)
def test_hooks_of_blocks_act_at_every_block(schedule: str, first: str) -> None:
    model = models.clip_vision()
    with tokenprune.attach(model, PLANS[schedule]):
        pruned = run(model)
    found = hooked(model) if first == "hooks" else []
    with tokenprune.attach(model, PLANS[schedule]):
        found = found or hooked(model)
        assert torch.equal(run(model), pruned)
        assert [(hook.before, hook.after) for hook in found] == [(1, 1)] * len(found)


@pytest.mark.parametrize("removed", ["before detach", "after detach"])
@pytest.mark.parametrize("first", ["hooks", "plan"])
def test_hooks_and_plan_leave_in_any_order(first: str, removed: str) -> None:
    model = models.clip_vision()
    dense = run(model)
    found = hooked(model) if first == "hooks" else []
    handle = tokenprune.attach(model, PLANS["mean"])
    found = found or hooked(model)
    if removed == "before detach":
        hooks.remove_hook_from_submodules(model)
        assert not torch.equal(run(model)[:, :1], dense[:, :1])
        handle.detach()
    else:
        handle.detach()
        assert torch.equal(run(model), dense)
        assert all(hook.before == 1 for hook in found)
        assert torch.equal(run(copy.deepcopy(model)), dense)
        hooks.remove_hook_from_submodules(model)
    assert torch.equal(run(model), dense)
    for layer in model.encoder.layers:  # accelerate leaves the bound method itself
        kept = vars(layer).get("forward", layer.forward)
        assert kept.__func__ is type(layer).forward


def test_a_wrapper_put_on_afterwards_stays_and_runs_the_plain_model() -> None:
    model, seen = models.clip_vision(), []
    dense = run(model)
    handle = tokenprune.attach(model, PLANS["last"])
    inside = model.forward

    @functools.wraps(inside)
    def logging(*args: Any, **kwargs: Any) -> Any:
        seen.append(len(args))
        return inside(*args, **kwargs)

    model.forward = logging
    handle.detach()
    assert model.forward is logging
    assert torch.equal(run(model), dense)
    assert seen == [1]
    again = tokenprune.attach(model, PLANS["last"])
    assert not torch.equal(run(model)[:, 0], dense[:, 0])
    again.detach()
    assert torch.equal(run(model), dense)


class Counter:
    """Something with a method to override."""

    def value(self) -> int:
        return 1


@pytest.mark.parametrize(
    "order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
)
def test_overrides_are_taken_back_in_any_order(order: tuple[int, int, int]) -> None:
    owner, layers, factors = Counter(), [Patches() for _ in range(3)], (2, 3, 5)
    for layer, factor in zip(layers, factors, strict=True):
        layer.override(owner, "value", lambda original, factor=factor: factor * original())
    expected = 30
    assert owner.value() == expected
    for number in order:
        layers[number].undo()
        layers[number].undo()
        expected //= factors[number]
        assert owner.value() == expected
    assert not vars(owner)


def test_hooks_of_patches_are_not_copied_and_those_of_others_are() -> None:
    module, patches, seen = torch.nn.Linear(2, 2), Patches(), []
    module.register_forward_hook(lambda *_: seen.append("theirs"))
    patches.hook(module, lambda *_: seen.append("ours"))
    copy.deepcopy(module)(torch.ones(1, 2))
    assert seen == ["theirs"]
    patches.undo()
    module(torch.ones(1, 2))
    assert seen == ["theirs", "theirs"]


def test_a_model_that_accelerate_unwraps_keeps_its_plan_until_detach() -> None:
    """Unwrapping binds the innermost forward that is found to the model once more."""
    from accelerate.utils import convert_outputs_to_fp32, extract_model_from_parallel

    model = models.clip_vision()
    dense = run(model)
    with tokenprune.attach(model, PLANS["mean"]):
        pruned = run(model)
        model._original_forward = model.forward  # as Accelerator.prepare does in mixed precision
        model.forward = convert_outputs_to_fp32(model.forward)
        extract_model_from_parallel(model, keep_fp32_wrapper=False)
        assert torch.equal(run(model), pruned)
        assert torch.equal(run(copy.deepcopy(model)), dense)
    assert "forward" not in vars(model)
    assert torch.equal(run(model), dense)
