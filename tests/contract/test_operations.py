"""What a site costs in operations: as the dispatcher sees them, and inside of ours, too."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tokenprune
from benchmarks.counting import IDLE, dispatched, leaves
from benchmarks.towers import qwen_picture, qwen_vision
from tests import models, packed
from tokenprune.ops.flops import count_flops

#: Operations a site beyond the dense tower's: as dispatched.
DISPATCHED = 12
WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "_to_copy")


def tower() -> tuple[Any, Callable[[], Any], dict[str, Any]]:
    model, picture = models.timm_vit(depth=12), models.pixels(1)
    stage = {"at": "encoder", "keep": 10}
    return model, lambda: model.forward_features(picture), stage


def clip_tower() -> tuple[Any, Callable[[], Any], dict[str, Any]]:
    model, pictures = models.clip_vision(num_hidden_layers=12), models.pixels(2)
    return model, lambda: model(pictures), {"at": "encoder", "keep": 10}


# Leaves a site.
@pytest.mark.parametrize(
    ("strategy", "made", "limit"),
    [
        ("tome", tower, 40),
        ("tome", clip_tower, 40),
        ("evoprune", tower, 60),
        ("evoprune", clip_tower, 60),
        ("fopru", tower, 50),
        ("fopru", clip_tower, 50),
        ("uniform", tower, 20),
        ("uniform", clip_tower, 20),
    ],
)
@torch.no_grad()
def test_a_site_costs_few_operations_seen_and_inside(
    strategy: str, made: Callable[[], Any], limit: int
) -> None:
    model, call, stage = made()
    call()
    seen, inside = len(dispatched(call)), leaves(call)
    plan = {"schema_version": 1, "stages": [{**stage, "strategy": strategy}]}
    with tokenprune.attach(model, plan) as handle:
        call()  # the first call checks what strategies answer
        sites = len(handle.trace.records)
        assert sites >= 6
        more = len(dispatched(call)) - seen, leaves(call) - inside
    assert more[0] / sites <= DISPATCHED
    assert more[1] / sites <= limit


@pytest.mark.parametrize("strategy", ["tome", "evoprune", "ipcv", "fopru", "uniform"])
@torch.no_grad()
def test_a_static_plan_waits_for_the_device_once_at_the_end(strategy: str) -> None:
    model, call, stage = tower()
    call()
    dense = [name for name in dispatched(call) if name in WAITS]
    plan = {"schema_version": 1, "stages": [{**stage, "strategy": strategy}]}
    with tokenprune.attach(model, plan):
        call()
        names = dispatched(call)
    waits = [name for name in names if name in WAITS]
    assert dense == []
    assert waits == ["_local_scalar_dense"]
    assert names[-1] == waits[0]


@functools.cache
def packed_tower(pictures: int) -> tuple[Any, Callable[[], Any]]:
    """A tower of 32 blocks, which tests share and leave as it was, and a call of it."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen

    config = transformers.Qwen2_5_VLConfig(vision_config=qwen_vision(32, 64, 128))
    tower = qwen.Qwen2_5_VisionTransformerPretrainedModel(config.vision_config).eval()
    rows, grids = qwen_picture(336, pictures)
    return tower, lambda: tower(hidden_states=rows, grid_thw=grids)


def launched(call: Callable[[], Any]) -> int:
    """Operations of a call that do something."""
    return sum(name not in IDLE for name in dispatched(call))


@functools.cache
def launched_dense(pictures: int) -> int:
    """Those of the tower without a plan."""
    return launched(packed_tower(pictures)[1])


def products(call: Callable[[], Any]) -> int:
    """FLOPs of the products of queries and keys in a call."""
    with count_flops() as counter:
        call()
    counts = counter.get_flop_counts()["Global"]
    pairs = ("attention", "attend", "baddbmm")
    return sum(many for one, many in counts.items() if any(name in str(one) for name in pairs))


@functools.cache
def products_dense() -> int:
    """Those of the tower without a plan, for one picture."""
    return products(packed_tower(1)[1])


@pytest.mark.parametrize("strategy", ["uniform", "tome", "evoprune", "fopru"])
@pytest.mark.parametrize(("pictures", "bound"), [(1, 1.0), (8, 0.65)])
@torch.inference_mode()
def test_a_pruned_packed_tower_has_fewer_operations_than_the_dense_one(
    strategy: str, pictures: int, bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are launched; the dense one attends to its windows one by one."""
    packed.launching(monkeypatch)
    dense, (tower, call) = launched_dense(pictures), packed_tower(pictures)
    plan = {"schema_version": 1, "stages": [{"at": "encoder", "strategy": strategy, "keep": 36}]}
    with tokenprune.attach(tower, plan):
        call()  # the first call checks what strategies answer
        assert launched(call) <= bound * dense


@pytest.mark.parametrize("strategy", ["uniform", "tome", "evoprune"])
@torch.inference_mode()
def test_on_the_cpu_a_pruned_packed_tower_computes_no_products_of_two_windows(
    strategy: str,
) -> None:
    """Nor those of padding, also for signals."""
    dense, (tower, call) = products_dense(), packed_tower(1)
    plan = {"schema_version": 1, "stages": [{"at": "encoder", "strategy": strategy, "keep": 36}]}
    with tokenprune.attach(tower, plan):
        assert products(call) <= dense / 2
