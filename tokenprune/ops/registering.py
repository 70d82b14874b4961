"""Registration of operations with torch: for the dispatcher, compilers, gradients, FLOP counters.

`torch.library.custom_op` wraps every call in safeguards that take longer than a small operation; an
encoder at batch 1 runs dozens of these, so they are registered one level below. `opcheck` holds
each operation to what the safeguards would look for.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, is_grad_enabled
from torch._ops import OpOverload
from torch.compiler import is_dynamo_compiling
from torch.utils.flop_counter import register_flop_formula

_Function = TypeVar("_Function", bound=Callable[..., Any])
_library: Any = torch.library  # most of its functions have no types
_counters: Callable[[], int] = torch._C._len_torch_dispatch_stack
"""How many modes of this thread alone want to see every operation."""
_LIBRARY: Any = _library.Library("tokenprune", "FRAGMENT")


def operation(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function that changes none of its arguments, as `tokenprune::name`.

    It needs `fake`, `flops`, and `gradient` or `without_gradient` beside it.

    Returns:
        A decorator. It gives the operation, which goes through torch's dispatcher only where
        somebody there has an interest in it: the way into the dispatcher and back to Python takes
        longer than the smaller operations.
    """

    def register(body: Callable[..., Any]) -> Callable[..., Any]:
        schema = _library.infer_schema(body, mutates_args=())
        _LIBRARY.define(name + schema, tags=torch.Tag.pt2_compliant_tag)
        _LIBRARY.impl(name, body, "CompositeExplicitAutograd")
        registered: OpOverload = getattr(torch.ops.tokenprune, name).default

        @wraps(body)
        def call(first: Tensor, *rest: Any) -> Any:
            # whether a compiler, a gradient, a tensor of another kind or a counter wants to know
            watched = (
                is_dynamo_compiling()
                or is_grad_enabled()
                or type(first) is not Tensor
                or _counters() > 0
            )
            return registered(first, *rest) if watched else body(first, *rest)

        return call

    return register


def fake(name: str) -> Callable[[_Function], _Function]:
    """Register what an operation's answer looks like: its shapes and types, without values."""

    def register(function: _Function) -> _Function:
        _library.register_fake(f"tokenprune::{name}", function, lib=_LIBRARY)
        return function

    return register


def flops(name: str) -> Callable[[_Function], _Function]:
    """Register how many FLOPs an operation takes, by the shapes of its arguments."""

    def register(function: _Function) -> _Function:
        register_flop_formula(getattr(torch.ops.tokenprune, name))(function)
        return function

    return register


def gradient(name: str, backward: Callable[..., Any], keep: Callable[..., None]) -> None:
    """Register an operation's gradient.

    Args:
        name: of the operation.
        backward: of a context and the gradients of its answers, those of its arguments.
        keep: of the context, the arguments and the answer; keeps what `backward` needs.
    """
    _library.register_autograd(f"tokenprune::{name}", backward, setup_context=keep, lib=_LIBRARY)


def without_gradient(name: str) -> None:
    """Let the answers of an operation stand for constants in a backward pass.

    Otherwise torch raises as soon as an answer takes part in one, as a score does that rides along
    with tokens that are merged.
    """

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*((output,) if isinstance(output, Tensor) else output))
        ctx.inputs = len(inputs)

    def backward(ctx: Any, *_: Any) -> tuple[None, ...]:
        count: int = ctx.inputs
        return (None,) * count

    gradient(name, backward, keep)
