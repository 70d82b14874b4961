"""The names of a model library that plain runs need, each in this one place."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def states_of(output: Any) -> Tensor:
    """Hidden states `[B, T, D]` that a block or a layer puts out."""
    states: Tensor = output if isinstance(output, Tensor) else output[0]
    return states
