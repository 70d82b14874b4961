"""The names of a model library that plain runs need, each in this one place."""

from __future__ import annotations

from typing import Any

from torch import Tensor

LAYER_MASK = "attention_mask"
"""Keyword with which a layer of an LLM is told which keys its queries see."""


def states_of(output: Any) -> Tensor:
    """Hidden states `[B, T, D]` that a block or a layer puts out."""
    states: Tensor = output if isinstance(output, Tensor) else output[0]
    return states
