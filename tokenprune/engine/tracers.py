"""Whether a compiler may be tracing; tracers and exporters that would record a wrong model."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import NoReturn

import torch
from torch import fx

from tokenprune.errors import UnsupportedCallError

_INSTEAD = "Use torch.export.export(..., strict=False), which records what the plan does."
_COMPILER = "torch._dynamo"


def may_compile() -> bool:
    """Whether a compiler may be tracing this; it can't where nobody imported it."""
    return torch.compiler.is_compiling() or _COMPILER in sys.modules


def refuse_tracing() -> None:
    """Refuse a call that is recorded by `torch.jit.trace`; strict export fails by itself.

    Raises:
        UnsupportedCallError: naming the tracer.
    """
    if torch._C._get_tracing_state() is not None:
        _refuse("torch.jit.trace (and the ONNX exporter over it)", "traces parts by themselves")


def refuse_symbols(arguments: Iterable[object]) -> None:
    """Refuse arguments that stand for values, as `torch.fx` hands them.

    Raises:
        UnsupportedCallError: one of them is symbolic.
    """
    if any(isinstance(one, fx.Proxy) for one in arguments):
        _refuse("torch.fx", "records no choice that depends on values")


def _refuse(tracer: str, why: str) -> NoReturn:
    raise UnsupportedCallError(f"{tracer} {why} in a model with a plan.", remedy=_INSTEAD)
