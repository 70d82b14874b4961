"""What tests of compiled towers share."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

_PROBE: ContextVar[int] = ContextVar("probe", default=1)


@cache
def traces_context_variables() -> bool:
    """Whether this torch can; older releases break the graph at one, and plans read one."""
    try:
        torch.compile(lambda x: x + _PROBE.get(), backend="eager", fullgraph=True)(torch.ones(1))
    except torch._dynamo.exc.Unsupported:
        return False
    return True


needs_context_variables = pytest.mark.skipif(
    not traces_context_variables(), reason=f"torch {torch.__version__} traces no context variables"
)


def one_graph(call: Any, backend: str = "eager") -> tuple[Callable[..., Any], Any]:
    """A module or method compiled without a break, and what counts its graphs."""
    counter = CompileCounterWithBackend(backend)
    return torch.compile(call, backend=counter, fullgraph=True), counter


def tensors(output: Any) -> list[Tensor]:
    """Those of an output, levels of DeepStack too."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if hasattr(output, "values") else output
    return [one for value in values if value is not None for one in tensors(value)]


def assert_same(found: Any, plain: Any) -> None:
    """Whether two outputs differ by rounding only, if at all."""
    for one, other in zip(tensors(found), tensors(plain), strict=True):
        torch.testing.assert_close(one, other)
