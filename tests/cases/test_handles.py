"""A handle is good for one attachment: entered once, and never copied."""

from __future__ import annotations

import copy
import pickle

import pytest
from torch import nn

import tokenprune
from tests import models
from tests.mllm.plans import fastv, plan, tome
from tokenprune.errors import AlreadyAttachedError, UnsupportedCallError


def test_a_detached_handle_is_not_entered_again() -> None:
    """Calls inside would be dense, and count as those of the plan."""
    model = models.clip_vision()
    with tokenprune.attach(model, plan(tome())) as handle:
        model(models.pixels(1))
    with pytest.raises(UnsupportedCallError, match="was detached"), handle:
        pass
    with pytest.raises(UnsupportedCallError, match="was detached"), handle.count_flops():
        pass
    handle.detach()
    assert handle.report().calls == 1


def test_a_handle_is_neither_copied_nor_pickled() -> None:
    model = models.clip_vision()
    with tokenprune.attach(model, plan(tome())) as handle:
        for how in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(UnsupportedCallError, match="belongs to one model"):
                how(handle)


def test_flops_that_nobody_counted_are_none() -> None:
    """Zero would read as a cost of nothing."""
    model = models.clip_vision()
    with tokenprune.attach(model, plan(tome())) as handle:
        model(models.pixels(1))
        assert handle.report().flops is None
        assert "FLOPs    not counted" in str(handle.report())
        with handle.count_flops():
            model(models.pixels(1))
        once = handle.report().flops
        with handle.count_flops():
            model(models.pixels(1))
        assert once is not None
        assert handle.report().flops == 2 * once > 0
        handle.meter.reset()
        assert handle.report().flops is None


def test_a_handle_that_was_not_kept_is_found_on_the_model_and_its_parts() -> None:
    model = models.llava_clip()
    assert tokenprune.attached(model) == []
    tokenprune.attach(model, plan(fastv(2, 5)))
    for part in (model, model.model, model.model.vision_tower, nn.ModuleList([model])):
        assert [found.model for found in tokenprune.attached(part)] == [model]
    (handle,) = tokenprune.attached(model)
    assert tokenprune.attached(copy.deepcopy(model)) == []
    with pytest.raises(AlreadyAttachedError, match=r"tokenprune\.attached\(model\)"):
        tokenprune.attach(model, plan(fastv(2, 5)))
    assert tokenprune.attached(model) == [handle]
    handle.detach()
    assert tokenprune.attached(model) == []


def test_parts_with_plans_of_their_own_have_a_handle_each() -> None:
    both = nn.ModuleList([models.clip_vision(), models.clip_vision()])
    handles = [tokenprune.attach(one, plan(tome())) for one in both]
    assert tokenprune.attached(both) == handles
    handles[0].detach()
    assert tokenprune.attached(both) == handles[1:]
