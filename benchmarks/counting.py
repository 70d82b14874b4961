"""Operations of a call: as the dispatcher sees them, and those that call no other inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

Call = Callable[[], object]

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


class _Dispatched(TorchDispatchMode):
    """Takes down the operations that the dispatcher sees, in turn, views left out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        views = (one.alias_info for one in func._schema.returns)
        if not any(alias is not None and not alias.is_write for alias in views):
            self.names.append(func._schema.name.split("::")[-1])
        return func(*args, **(kwargs or {}))


def dispatched(call: Call) -> list[str]:
    """Names of the operations of a call as the dispatcher sees them, without views."""
    seen = _Dispatched()
    with seen:
        call()
    return seen.names


def leaves(call: Call) -> int:
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

    events: Any = seen.events() or []
    return sum(works(event) and not calls_one(event) for event in events)
