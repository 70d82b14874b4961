"""Features of pictures as the method of a core hands them on: held by an output, or bare."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenprune.errors import UnsupportedModelError


def held(made: Any, name: str) -> Any:
    """The features of each picture, `[N, D]`, as a tensor or a sequence.

    Args:
        made: what the method put out: an output that holds them, or a tensor or a list.
        name: attribute of an output that holds them.

    Raises:
        UnsupportedModelError: it is neither.
    """
    if isinstance(made, Tensor | list):
        return made
    found = getattr(made, name, None)
    if found is None:
        raise UnsupportedModelError(
            f"the method for pictures put out {type(made).__name__} without {name}.",
            where="features of pictures",
            remedy=f"An output with {name}, or a tensor or list of features, can be read.",
        )
    return found


def replaced(made: Any, name: str, features: Tensor) -> Any:
    """What the method put out, in its own form, with other features `[sum of N, D]`."""
    before = held(made, name)
    parts = torch.split(features, [one.numel() // one.shape[-1] for one in before])
    after = [part.view(one.shape) for part, one in zip(parts, before, strict=True)]
    form = torch.stack(after) if isinstance(before, Tensor) else type(before)(after)
    if before is made:
        return form
    setattr(made, name, form)
    return made
