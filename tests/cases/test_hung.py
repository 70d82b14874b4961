"""What a user hung on a part that a plan runs in another way: it runs, or the call is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tokenprune
from tests import models, packed
from tests.mllm.calls import SHORT, inputs
from tokenprune.errors import UnsupportedCallError

MERGING = {"schema_version": 1, "stages": [{"at": "encoder", "strategy": "tome", "keep": 18}]}


def clip() -> tuple[Any, nn.Module, Callable[[Any], Tensor]]:
    model = models.clip_vision()
    attention = next(one for name, one in model.named_modules() if name.endswith("1.self_attn"))
    return model, attention, lambda one: one(models.pixels(1)).last_hidden_state


def timm() -> tuple[Any, nn.Module, Callable[[Any], Tensor]]:
    model = models.timm_vit()
    return model, model.blocks[1].attn, lambda one: one.forward_features(models.pixels(1))


def qwen() -> tuple[Any, nn.Module, Callable[[Any], Tensor]]:
    model = copy.deepcopy(packed.tower("qwen2_5_vl"))  # other tests share it
    call = packed.call(((1, 8, 8),))
    return model, model.blocks[1].attn, lambda one: one(**call)[0]


TOWERS = {"clip": clip, "timm": timm, "qwen": qwen}


def hook(module: nn.Module, args: Any, output: Any) -> Any:
    return output


def ahead(module: nn.Module, args: Any) -> None:
    return None


def hung(attention: Any, how: str) -> None:
    if how == "hook":
        attention.register_forward_hook(hook)
    elif how == "pre-hook":
        attention.register_forward_pre_hook(ahead)
    else:
        forward = attention.forward
        attention.forward = lambda *args, **kwargs: forward(*args, **kwargs)


@pytest.mark.parametrize("how", ["hook", "pre-hook", "forward"])
@pytest.mark.parametrize("tower", TOWERS)
@torch.no_grad()
def test_what_hangs_on_an_attention_that_is_not_called_is_refused(tower: str, how: str) -> None:
    model, attention, call = TOWERS[tower]()
    stages = packed.plan({"strategy": "tome", "keep": 0.5}) if tower == "qwen" else MERGING
    hung(attention, how)
    dense = call(model)
    with tokenprune.attach(model, stages), pytest.raises(UnsupportedCallError, match="never run"):
        call(model)
    assert torch.equal(call(model), dense)


@torch.no_grad()
def test_hooks_on_blocks_and_projections_run() -> None:
    model, attention, call = clip()
    seen: list[nn.Module] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        seen.append(module)

    projection = attention.get_submodule("q_proj")
    projection.register_forward_hook(note)
    with tokenprune.attach(model, MERGING):
        call(model)
    assert seen == [projection]


@torch.no_grad()
def test_hooks_of_libraries_on_an_attention_are_left_out() -> None:
    """They capture weights or move tensors, and the projections have them, too."""
    model, attention, call = clip()
    with tokenprune.attach(model, MERGING):
        plain = call(model)
        made: Any = lambda module, args, output: output  # noqa: E731
        made.__module__ = "transformers.utils.output_capturing"
        attention.register_forward_hook(made)
        assert torch.equal(call(model), plain)


@torch.no_grad()
def test_a_tower_that_another_model_shares_is_refused_there() -> None:
    one, other = models.llava_clip(), models.llava_clip()
    other.model.vision_tower = one.model.vision_tower
    given = inputs(SHORT)
    dense = other(**given).logits
    stage = {"at": "encoder", "strategy": "ipcv", "keep": 18, "layer": 2}
    with tokenprune.attach(one, {"schema_version": 1, "stages": [stage]}):
        pruned = one(**given).logits
        with pytest.raises(UnsupportedCallError, match="Attach a plan to this Llava"):
            other(**given)
        assert torch.equal(one(**given).logits, pruned)
        one.model.vision_tower(given["pixel_values"])  # and the user may call the tower alone
        one.get_image_features(given["pixel_values"])
    assert torch.equal(other(**given).logits, dense)


@pytest.mark.parametrize("strategy", ["tome", "fopru"])
def test_transforms_of_torch_func_are_refused(strategy: str) -> None:
    model, pictures = models.timm_vit(), models.pixels(2)
    stage = {"at": "encoder", "strategy": strategy, "keep": 18, "layer": 1}
    with tokenprune.attach(model, {"schema_version": 1, "stages": [stage]}):
        with pytest.raises(UnsupportedCallError, match=r"torch\.func"):
            torch.func.grad(lambda x: model(x).sum())(pictures)
        with pytest.raises(UnsupportedCallError, match=r"torch\.func"):
            torch.func.vmap(lambda x: model(x[None])[0])(pictures)


@torch.no_grad()
def test_a_copy_of_tokens_of_a_picture_of_any_size_is_not_taken_for_unpruned() -> None:
    model = models.timm_vit(global_pool="avg", class_token=False, dynamic_img_size=True)
    stage = {"at": "encoder", "strategy": "tome", "keep": 36}
    with tokenprune.attach(model, {"schema_version": 1, "stages": [stage]}):
        found = model.forward_features(models.pixels(2, image=64))
        assert found.shape[1] == 36  # as many as the model's own grid has
        with pytest.raises(UnsupportedCallError, match="36 tokens"):
            model.forward_head(found.clone())


@torch.no_grad()
def test_means_weighted_by_size_are_of_the_states_own_type() -> None:
    model, pictures = towers_of_mean(), models.pixels(2).double()
    stage = {"at": "encoder", "strategy": "uniform", "keep": 12, "layer": 1}
    with tokenprune.attach(model, {"schema_version": 1, "stages": [stage]}):
        states = model.forward_features(pictures)
        want = model.head(model.fc_norm(states.mean(dim=1)))
        torch.testing.assert_close(model(pictures), want, rtol=1e-12, atol=1e-12)


def towers_of_mean() -> Any:
    return models.timm_vit(global_pool="avg", class_token=False).double()
