"""Queries of attention whose factor isn't the usual one."""

from __future__ import annotations

from torch import Tensor


def scaled(query: Tensor, scale: float) -> Tensor:
    """Queries `[..., d]` with which a factor of 1/sqrt(d) gives what the module's own factor gives.

    Args:
        query: as the module makes them.
        scale: the module's factor on logits.
    """
    factor = scale * query.shape[-1] ** 0.5
    # a module with the usual factor gets its own numbers back, to the last bit
    return query if abs(factor - 1) < 1e-6 else query * factor
