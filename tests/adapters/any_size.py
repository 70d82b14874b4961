"""Tiny towers for pictures of any size, alone, and what they are called with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.families.any_size import tower_of
from tests.families.cases import CASES

TOWERS = ("mistral3", "paddleocr_vl", "gemma4")
SCENE = "several"
"""Pictures of two sizes, two of them of one."""
SIDES = {"mistral3": 1, "paddleocr_vl": 1, "gemma4": 2}
"""Rows and columns of patches of what a tower alone makes one row of."""
WHERE = {
    "mistral3": "image_sizes",
    "paddleocr_vl": "grid_thw",
    "gemma4": "pixel_position_ids",
}
"""The argument that tells sizes or places."""


def tower(
    family: str = "mistral3", dtype: torch.dtype = torch.float32, attention: str = "sdpa"
) -> Any:
    """The tower of a family's tiny model; tests share it, so they leave it as it was."""
    case = CASES[family]
    reason = case.missing()
    if reason:
        pytest.skip(f"{family}: {reason}")
    return tower_of(case.build(dtype, attention))


def call(family: str, dtype: torch.dtype = torch.float32, scene: str = SCENE) -> dict[str, Tensor]:
    """Pictures and their sizes, grids or places."""
    given = CASES[family].inputs(scene, "left", dtype)
    names = ("image_sizes", "image_grid_thw", "image_position_ids")
    (where,) = (given[name] for name in names if name in given)
    pixels = given["pixel_values"]
    if family == "paddleocr_vl":
        pixels = pixels[None]
    return {"pixel_values": pixels, WHERE[family]: where}


def run(model: Any, given: dict[str, Any]) -> Tensor:
    """What the tower makes of every unit: `[U, d]`."""
    with torch.no_grad():
        made: Tensor = model(**given).last_hidden_state
    return made.flatten(0, -2)
