"""What tests of compiled towers share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend


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
