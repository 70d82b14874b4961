"""Counting floating-point operations, attention on the CPU included."""

from collections.abc import Callable
from functools import cache
from typing import Any, Self

import torch
from torch.utils.flop_counter import FlopCounterMode, _FlopCounterMode, flop_registry

Shape = torch.Size | tuple[int, ...]


class _Flat:
    """In place of torch's module tracker, whose hooks fail on learned tokens outside of training.

    A view of a parameter that is made without gradients may still claim to need some.
    """

    def __init__(self) -> None:
        self.parents = {"Global"}

    def __enter__(self) -> "_Flat":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was installed."""


class _Mode(_FlopCounterMode):  # type: ignore[no-untyped-call]
    """Torch's mode, which tries to take an operator apart at every call of it; this one only once.

    Half of the time of a count was spent on that.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if not _whole(func):
            watched: Any = super().__torch_dispatch__
            return watched(func, types, args, kwargs)
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        count: Any = self.counter._count_flops
        return count(func._overloadpacket, output, args, kwargs)


@cache
def _whole(func: Any) -> bool:
    """Whether an operator makes tensors and isn't made of other operators, so that it just runs."""
    if not isinstance(func, torch._ops.OpOverload):
        return False
    made_of_others = func.has_kernel_for_dispatch_key(
        torch._C.DispatchKey.CompositeImplicitAutograd
    )
    return not made_of_others and any("Tensor" in str(one.type) for one in func._schema.returns)


class FlopCounter(FlopCounterMode):
    """`FlopCounterMode` without its table by module, and with the sum as an attribute."""

    def __init__(self, **options: Any) -> None:
        super().__init__(display=False, **options)
        self.mod_tracker: Any = _Flat()

    def __enter__(self) -> Self:
        self.flop_counts.clear()
        mode: Any = _Mode(self)
        self.mode = mode.__enter__()
        return self

    @property
    def total(self) -> int:
        """Operations counted so far; a multiplication and an addition are two."""
        return int(self.get_total_flops())


def count_flops() -> FlopCounter:
    """A context that counts what runs inside it.

    The pruning operations of this package are counted by the formulas they register. Attention on
    the CPU is added where this version of torch doesn't count it.

    Example:
        ```python
        with count_flops() as counter:
            model(**inputs)
        print(counter.total)
        ```
    """
    return FlopCounter(custom_mapping=_missing_formulas())


def attention_flops(query: Shape, key: Shape, value: Shape) -> int:
    """Operations of `softmax(q k^T) v`: both products, without discount for a causal mask.

    Args:
        query: `[B, H, Tq, d]`.
        key: `[B, H, Tk, d]`.
        value: `[B, H, Tk, dv]`.
    """
    batch, heads, queries, width = query
    keys, out_width = value[-2], value[-1]
    return 2 * batch * heads * queries * keys * (width + out_width)


def _missing_formulas() -> dict[Any, Callable[..., int]]:
    packet = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    if packet is None or packet in flop_registry:
        return {}
    return {packet: _attention_formula}


def _attention_formula(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return attention_flops(query, key, value)
