"""What a site costs in operations: as the dispatcher sees them, and inside of ours, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import tokenprune
from tests import models

#: Operations a site beyond the dense tower's: as dispatched.
DISPATCHED = 12
WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "_to_copy")
#: They move no data: views, allocations, look-ups of a type.
IDLE = frozenset(
    {"alias", "as_strided", "as_strided_", "chunk", "contiguous", "detach", "diagonal", "dropout",
     "empty", "empty_like", "empty_strided", "expand", "expand_as", "flatten", "item",
     "lift_fresh", "mT", "narrow", "new_empty", "permute", "promote_types", "reshape", "resize_",
     "resolve_conj", "resolve_neg", "result_type", "select", "set_", "slice", "split",
     "split_with_sizes", "squeeze", "squeeze_", "t", "to", "transpose", "unbind", "unflatten",
     "unfold", "unsqueeze", "unsqueeze_", "view", "view_as", "_nnpack_available",
     "_reshape_alias", "_unsafe_view"}
)  # fmt: skip


class Dispatched(TorchDispatchMode):
    """The operations that the dispatcher sees, in turn, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        views = (one.alias_info for one in func._schema.returns)
        if not any(alias is not None and not alias.is_write for alias in views):
            self.names.append(func._schema.name.split("::")[-1])
        return func(*args, **(kwargs or {}))


def dispatched(call: Callable[[], Any]) -> list[str]:
    seen = Dispatched()
    with seen:
        call()
    return seen.names


def leaves(call: Callable[[], Any]) -> int:
    """Operations that call no other one that works, those inside of ours included.

    What an operation calls by way of a view counts as called by it: `x * 0.5` is one operation,
    though it converts the number by `aten::to` and `aten::copy_` first.
    """
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        call()

    def works(event: Any) -> bool:
        name = event.name
        return name.startswith("aten::") and name.removeprefix("aten::") not in IDLE

    def calls_one(event: Any) -> bool:
        return any(works(child) or calls_one(child) for child in event.cpu_children)

    return sum(works(event) and not calls_one(event) for event in seen.events() or [])


def tower() -> tuple[Any, Callable[[], Any], dict[str, Any]]:
    model, picture = models.timm_vit(depth=12), models.pixels(1)
    stage = {"at": "encoder", "keep": 10}
    return model, lambda: model.forward_features(picture), stage


def clip_tower() -> tuple[Any, Callable[[], Any], dict[str, Any]]:
    model, pictures = models.clip_vision(num_hidden_layers=12), models.pixels(2)
    return model, lambda: model(pictures), {"at": "encoder", "keep": 10}


# Leaves a site. Of two pictures EvoPrune's scores are made one by one on a CPU, bit for bit as
# they are alone.
@pytest.mark.parametrize(
    ("strategy", "made", "limit"),
    [
        ("tome", tower, 40),
        ("tome", clip_tower, 40),
        ("evoprune", tower, 60),
        ("evoprune", clip_tower, 70),
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
