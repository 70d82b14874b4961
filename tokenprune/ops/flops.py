"""Counting floating-point operations, also of what torch's counter has no formula for."""

import warnings
from functools import cache
from typing import Any, Self

import torch
from torch.utils.flop_counter import FlopCounterMode, _FlopCounterMode

from tokenprune.errors import UncountedWarning
from tokenprune.ops.flop_formulas import missing_formulas

OWN = frozenset(
    ("aten", "prim", "prims", "c10d", "_c10d_functional", "fsdp", "torchvision", "profiler")
)
"""Namespaces of torch: but for `HEAVY`, what has no formula there computes little.

Others may hold whole layers.
"""

HEAVY = frozenset(
    (
        *("_trilinear", "miopen_rnn", "_fft_c2c", "_fft_r2c", "_fft_c2r"),
        *("linalg_inv_ex", "_linalg_svd", "linalg_qr", "linalg_cholesky_ex", "linalg_lu_factor_ex"),
        *("linalg_lu", "linalg_lu_solve", "linalg_lstsq", "linalg_matrix_exp", "_linalg_det"),
        *("_linalg_eigvals", "linalg_eig", "geqrf", "ormqr", "cholesky_solve"),
    )
)
"""Operators of torch that compute much, and that nothing here has a formula for."""


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
        if _much(func) and func._overloadpacket not in counter.flop_registry:
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


@cache
def _much(func: Any) -> bool:
    """Whether what an operator computes may be worth a formula."""
    return func.namespace not in OWN or func._schema.name.partition("::")[2] in HEAVY


class FlopCounter(FlopCounterMode):
    """`FlopCounterMode` without its table by module, and with the sum as an attribute.

    Attributes:
        uncounted: operators without a formula, of other packages or of `HEAVY`; a warning names
            them at the end.
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
            others = any(not name.startswith("aten.") for name in self.uncounted)
            alone = "or count with parts of torch alone, such as attn_implementation='sdpa'"
            instead = f", {alone}" if others else ""
            warnings.warn(
                f"no formula says how many FLOPs {', '.join(sorted(self.uncounted))} take, so they "
                "count as 0. Register formulas with "
                f"torch.utils.flop_counter.register_flop_formula{instead}.",
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

    The pruning operations of this package are counted by the formulas they register, and what
    torch's counter leaves out by those of `flop_formulas`.

    Example:
        ```python
        with count_flops() as counter:
            model(**inputs)
        print(counter.total)
        ```
    """
    return FlopCounter(custom_mapping=missing_formulas())
