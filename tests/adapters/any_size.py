"""Tiny towers for pictures of any size, alone, and what they are called with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.families.cases import CASES

TOWERS = ("mistral3", "gemma4")
SCENE = "several"
"""Pictures of two sizes, two of them of one."""
SIDES = {"mistral3": 1, "gemma4": 2}
"""Rows and columns of patches of what a tower alone makes one row of."""
WHERE = {"mistral3": "image_sizes", "gemma4": "pixel_position_ids"}
"""The argument that tells sizes or places."""


def tower(
    family: str = "mistral3", dtype: torch.dtype = torch.float32, attention: str = "sdpa"
) -> Any:
    """The tower of a family's tiny model; tests share it, so they leave it as it was."""
    case = CASES[family]
    reason = case.missing()
    if reason:
        pytest.skip(f"{family}: {reason}")
    return case.build(dtype, attention).model.vision_tower


def call(family: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Pictures and their sizes or places."""
    given = CASES[family].inputs(SCENE, "left", dtype)
    where = "image_sizes" if family == "mistral3" else "image_position_ids"
    return {"pixel_values": given["pixel_values"], WHERE[family]: given[where]}


def run(model: Any, given: dict[str, Any]) -> Tensor:
    """What the tower makes of every unit: `[U, d]`."""
    with torch.no_grad():
        made: Tensor = model(**given).last_hidden_state
    return made.flatten(0, -2)
