"""Operations through which no gradient flows."""

from typing import Any

from torch import Tensor


def carries_no_gradient(operation: Any) -> None:
    """Let the results of an operation stand for constants in a backward pass.

    Without it torch raises as soon as a result takes part in one, as a score does that rides along
    with tokens that are merged.

    Args:
        operation: what `torch.library.custom_op` made, with one tensor or several as its result.
    """
    operation.register_autograd(_backward, setup_context=_constant)


def _constant(ctx: Any, inputs: tuple[Any, ...], output: Tensor | tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*((output,) if isinstance(output, Tensor) else output))
    ctx.inputs = len(inputs)


def _backward(ctx: Any, *_: Any) -> tuple[None, ...]:
    count: int = ctx.inputs
    return (None,) * count
