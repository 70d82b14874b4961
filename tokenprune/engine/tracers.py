"""Whether a compiler may be tracing or a CUDA graph recording; tracers that are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import torch
from torch import fx, nn
from torch.compiler import is_compiling, is_exporting

from tokenprune.errors import UnsupportedCallError

_INSTEAD = "Use torch.export.export(..., strict=False), which records what the plan does."
_cuda: Any = torch.cuda  # some of its functions have no types
_watching: Callable[[], object] = torch._C._dynamo.eval_frame.get_eval_frame_callback
"""What looks at every function that this thread enters, to compile it; None if nothing does."""
_transforming: Callable[[], object] = torch._C._functorch.peek_interpreter_stack
"""The innermost transform of `torch.func` that is running; None without one."""


def may_compile() -> bool:
    """Whether a compiler is tracing this, or waits to."""
    return is_compiling() or _watching() is not None


def capturing() -> bool:
    """Whether a CUDA graph records what this thread's stream is given, instead of running it."""
    return _cuda.is_initialized() and bool(_cuda.is_current_stream_capturing())


def refuse_export(model: nn.Module) -> None:
    """Refuse to export a multimodal LLM with a plan.

    Args:
        model: the multimodal LLM.

    Raises:
        UnsupportedCallError: `torch.export` is recording it.
    """
    if is_exporting():
        raise UnsupportedCallError(
            "which places of the prompt are visual is read of its token ids, and a graph that is "
            "exported knows no values.",
            where=f"torch.export, {type(model).__name__}",
            remedy="Export its vision tower, which records what the plan does there, or detach the "
            "plan.",
        )


def refuse_tracing() -> None:
    """Refuse a call that is recorded by `torch.jit.trace`; strict export fails by itself.

    Raises:
        UnsupportedCallError: naming the tracer.
    """
    if torch._C._get_tracing_state() is not None:
        _refuse("torch.jit.trace (and the ONNX exporter over it)", "traces parts by themselves")


def refuse_symbols(arguments: Iterable[object]) -> None:
    """Refuse arguments that stand for values, as `torch.fx` hands them, and transforms of calls.

    Raises:
        UnsupportedCallError: one of them is symbolic, or `torch.func` transforms the call.
    """
    if any(isinstance(one, fx.Proxy) for one in arguments):
        _refuse("torch.fx", "records no choice that depends on values")
    if not is_compiling() and _transforming() is not None:
        raise UnsupportedCallError(
            "torch.func's transforms (grad, jacrev, vmap) don't know the operations of a plan.",
            remedy="Use torch.autograd, and a loop or a batch for vmap, or detach the plan.",
        )


def _refuse(tracer: str, why: str) -> NoReturn:
    raise UnsupportedCallError(f"{tracer} {why} in a model with a plan.", remedy=_INSTEAD)
