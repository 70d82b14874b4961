"""Copies of an attached model are plain models of their own."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import tokenprune
from tests import models
from tests.contract.cases import footprint
from tests.mllm.calls import SHORT, inputs, logits
from tests.mllm.plans import fastv, plan, tome
from tokenprune.engine.attachment import ATTACHED
from tokenprune.errors import UnsupportedCallError

PLANS = {"llava_clip": plan(tome(), fastv()), "clip_vision": plan(tome()), "timm_vit": plan(tome())}


@torch.no_grad()
def run(model: Any, family: str) -> Tensor:
    if family == "llava_clip":
        return logits(model, inputs(SHORT))
    output = model(models.pixels())
    return output if isinstance(output, Tensor) else output.last_hidden_state


def averaged(model: nn.Module) -> nn.Module:
    return AveragedModel(model).module


COPIES: dict[str, Callable[[Any], Any]] = {"deepcopy": copy.deepcopy, "average": averaged}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("family", PLANS)
def test_a_copy_is_plain_during_and_after_the_attachment(family: str, how: str) -> None:
    model = getattr(models, family)()
    dense = run(model, family)  # transformers puts hooks of its own on at the first call
    whole = footprint(model)
    with tokenprune.attach(model, PLANS[family]):
        twin = COPIES[how](model)
        pruned = run(model, family)
        assert torch.equal(run(twin, family), dense)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        emptied = run(twin, family)
        assert torch.equal(run(model, family), pruned)
    assert not torch.equal(pruned.float().mean(), dense.float().mean())
    assert footprint(twin) == whole == footprint(model)
    assert torch.equal(run(twin, family), emptied)
    assert torch.equal(run(model, family), dense)


def test_a_copy_can_carry_a_plan_of_its_own() -> None:
    model = models.llava_clip()
    dense = run(model, "llava_clip")
    with tokenprune.attach(model, plan(fastv())) as first:
        twin = copy.deepcopy(model)
        with tokenprune.attach(twin, plan(tome())) as second:
            run(twin, "llava_clip")
            assert not first.trace.images
            assert second.trace.images
        assert torch.equal(run(twin, "llava_clip"), dense)
        assert not torch.equal(run(model, "llava_clip"), dense)


def test_dynamic_quantization_of_an_attached_model_is_that_of_the_plain_one() -> None:
    quantize = torch.ao.quantization.quantize_dynamic
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("this torch quantizes nothing")
    model = models.clip_vision()
    expected = run(quantize(model, {nn.Linear}), "clip_vision")
    with tokenprune.attach(model, plan(tome())):
        assert torch.equal(run(quantize(model, {nn.Linear}), "clip_vision"), expected)


def test_replicas_on_devices_are_refused_by_name() -> None:
    model = models.clip_vision()
    with (
        tokenprune.attach(model, plan(tome())),
        pytest.raises(UnsupportedCallError, match=r"DataParallel copies.*DistributedDataParallel"),
    ):
        model._replicate_for_data_parallel()
    model._replicate_for_data_parallel()


def test_a_model_that_is_dropped_with_its_plan_is_forgotten() -> None:
    """Its id may become that of another model, which carries no plan."""
    gc.collect()  # what other tests dropped
    before = len(ATTACHED)
    tokenprune.attach(models.llava_clip(), plan(fastv(2, 5)))
    assert len(ATTACHED) > before
    gc.collect()
    assert len(ATTACHED) == before
