"""Counting floating-point operations, also of what torch's counter has no formula for."""

import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, Self

import torch
from torch.utils.flop_counter import FlopCounterMode, _FlopCounterMode, flop_registry

from tokenprune.errors import UncountedWarning

Shape = torch.Size | tuple[int, ...]

PRODUCTS = ("_int_mm", "_weight_int8pack_mm", "_weight_int4pack_mm", "mv")
"""Products that torch's counter leaves out, of one form: a row of the first by every output."""

GROUPED = ("_grouped_mm", "_scaled_grouped_mm")
"""Products of experts, which it leaves out, too: groups of rows, each with a matrix of its own."""

OWN = frozenset(
    ("aten", "prim", "prims", "c10d", "_c10d_functional", "fsdp", "torchvision", "profiler")
)
"""Namespaces of torch: what has no formula there computes little. Others may hold whole layers."""


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
        counter: Any = self.counter
        if func.namespace not in OWN and func._overloadpacket not in counter.flop_registry:
            counter.uncounted.add(str(func._overloadpacket))
        return counter._count_flops(func._overloadpacket, output, args, kwargs)


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
    """`FlopCounterMode` without its table by module, and with the sum as an attribute.

    Attributes:
        uncounted: operators of other packages without a formula; a warning names them at the end.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(display=False, **options)
        self.mod_tracker: Any = _Flat()
        self.uncounted: set[str] = set()

    def __enter__(self) -> Self:
        self.flop_counts.clear()
        self.uncounted.clear()
        mode: Any = _Mode(self)
        self.mode = mode.__enter__()
        return self

    def __exit__(self, *raised: Any) -> Any:
        leave: Any = super().__exit__
        left = leave(*raised)
        if self.uncounted:
            warnings.warn(
                f"no formula says how many FLOPs {', '.join(sorted(self.uncounted))} take, so they "
                "count as 0. Register formulas with "
                "torch.utils.flop_counter.register_flop_formula, or count with parts of torch "
                "alone, such as attn_implementation='sdpa'.",
                UncountedWarning,
                stacklevel=2,
            )
        return left

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
    """Formulas of operators that this version of torch has and doesn't count."""
    known: dict[str, Callable[..., int]] = {
        "_scaled_dot_product_flash_attention_for_cpu": _attention_formula,
        **dict.fromkeys(PRODUCTS, _product_formula),
        **dict.fromkeys(GROUPED, _grouped_formula),
        "linalg_solve_triangular": _solved_formula,
        "_linalg_eigh": _turned_formula,
    }
    packets = {getattr(torch.ops.aten, name, None): formula for name, formula in known.items()}
    return {
        packet: formula
        for packet, formula in packets.items()
        if packet is not None and packet not in flop_registry
    }


def _attention_formula(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return attention_flops(query, key, value)


def _product_formula(rows: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    """Of `[..., K]` by a matrix or vector, however that is packed."""
    return 2 * math.prod(out_shape) * rows[-1]


def _grouped_formula(first: Shape, second: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    """Of rows `[M, K]` by matrices `[G, K, N]`, or other dimensions divided into groups.

    Groups of K, as in gradients of the matrices, share the sum among the outputs `[G, M, N]`.
    """
    shared = out_shape[0] if len(first) == len(second) == 2 else 1
    return 2 * math.prod(out_shape) * first[-1] // shared


def _solved_formula(matrix: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    """Of a triangular system `[N, N]`, half of a product by it."""
    return math.prod(out_shape) * matrix[-1]


def _turned_formula(matrix: Shape, *_: Any, **__: Any) -> int:
    """Of eigenvalues and vectors of a symmetric matrix `[N, N]`, about 9 N^3.

    Source: Golub and Van Loan, Matrix Computations, algorithm 8.3.3 (symmetric QR).
    """
    return 9 * math.prod(matrix) * matrix[-1]
