"""Registration of operations with torch: for the dispatcher, compilers, gradients, FLOP counters.

`torch.library.custom_op` wraps every call in safeguards that take longer than a small operation; an
encoder at batch 1 runs dozens of these, so they are registered one level below. `opcheck` holds
each operation to what the safeguards would look for.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, is_grad_enabled
from torch._ops import OpOverload
from torch.compiler import is_dynamo_compiling
from torch.utils.flop_counter import register_flop_formula

from tokenprune.ops.dispatch import run

_library: Any = torch.library  # most of its functions have no types
_counters: Callable[[], int] = torch._C._len_torch_dispatch_stack
"""How many modes of this thread alone want to see every operation."""
_LIBRARY: Any = _library.Library("tokenprune", "FRAGMENT")


def nothing(*_: Any, **__: Any) -> int:
    """FLOPs of an operation that compares and copies only."""
    return 0


def operation(
    name: str,
    *,
    flops: Callable[..., int],
    gradient: tuple[Callable[..., Any], Callable[..., None]] | None = None,
    computes: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register an operation that changes none of its arguments, as `tokenprune::name`.

    The decorated function declares it: it has the operation's arguments, and answers with tensors
    of the right shapes and types whose values say nothing. Compilers read no more of an operation.

    Args:
        name: of the operation.
        flops: how many FLOPs it takes, by the shapes of its arguments; `nothing` where it takes
            none. There is no default: one that was forgotten would count 0 in every report.
        gradient: of a context and the gradients of its answers, those of its arguments; and of the
            context, the arguments and the answer, what keeps all that this needs. None lets the
            answers stand for constants in a backward pass.
        computes: what computes it; by default the implementations of the same name, see `run`.

    Returns:
        A decorator. It gives the operation, which goes through torch's dispatcher only where
        somebody there has an interest in it: the way into the dispatcher and back to Python takes
        longer than the smaller operations.
    """
    body = partial(run, name) if computes is None else computes
    backward, keep = gradient or (_no_gradients, _mark_constant)

    def register(declared: Callable[..., Any]) -> Callable[..., Any]:
        schema = _library.infer_schema(declared, mutates_args=())
        _LIBRARY.define(name + schema, tags=torch.Tag.pt2_compliant_tag)
        _LIBRARY.impl(name, body, "CompositeExplicitAutograd")
        qualified = f"tokenprune::{name}"
        _library.register_fake(qualified, declared, lib=_LIBRARY)
        _library.register_autograd(qualified, backward, setup_context=keep, lib=_LIBRARY)
        packet = getattr(torch.ops.tokenprune, name)
        register_flop_formula(packet)(flops)
        registered: OpOverload = packet.default

        @wraps(declared)
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


def _mark_constant(ctx: Any, inputs: tuple[Any, ...], output: Tensor | tuple[Tensor, ...]) -> None:
    # torch raises otherwise as soon as an answer takes part in a backward pass, as a score does
    # that rides along with tokens that are merged
    ctx.mark_non_differentiable(*((output,) if isinstance(output, Tensor) else output))
    ctx.inputs = len(inputs)


def _no_gradients(ctx: Any, *_: Any) -> tuple[None, ...]:
    count: int = ctx.inputs
    return (None,) * count
