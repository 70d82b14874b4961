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

#: Operations a site beyond the dense tower's, on one picture: as dispatched, and leaves.
LIMITS = {"tome": (12, 40), "evoprune": (12, 75)}
WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "_to_copy")
#: They move no data: views, allocations, look-ups of a type.
IDLE = frozenset(
    {"alias", "as_strided", "as_strided_", "chunk", "contiguous", "detach", "diagonal", "dropout",
     "empty", "empty_like", "empty_strided", "expand", "expand_as", "flatten", "item",
     "lift_fresh", "narrow", "new_empty", "permute", "promote_types", "reshape", "resize_",
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
    """Operations that call no other one that works, those inside of ours included."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        call()

    def works(event: Any) -> bool:
        name = event.name
        return name.startswith("aten::") and name.removeprefix("aten::") not in IDLE

    events = seen.events() or []
    return sum(works(e) and not any(map(works, e.cpu_children)) for e in events)


def tower() -> tuple[Any, Callable[[], Any], dict[str, Any]]:
    model, picture = models.timm_vit(depth=12), models.pixels(1)
    stage = {"at": "encoder", "keep": 10}
    return model, lambda: model.forward_features(picture), stage


@pytest.mark.parametrize("strategy", LIMITS)
@torch.no_grad()
def test_a_site_costs_few_operations_seen_and_inside(strategy: str) -> None:
    model, call, stage = tower()
    call()
    seen, inside = len(dispatched(call)), leaves(call)
    plan = {"schema_version": 1, "stages": [{**stage, "strategy": strategy}]}
    with tokenprune.attach(model, plan) as handle:
        call()  # the first call checks what strategies answer
        sites = len(handle.trace.records)
        assert sites >= 6
        more = len(dispatched(call)) - seen, leaves(call) - inside
    assert more[0] / sites <= LIMITS[strategy][0]
    assert more[1] / sites <= LIMITS[strategy][1]


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
