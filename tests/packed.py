"""Tiny packed vision towers, and a call with pictures of several sizes and a clip."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.families.cases import CASES
from tests.families.models.common import WIDTH
from tests.families.models.qwen import ROW
from tokenprune.engine.encoder.allowance import BY_TYPE, LAUNCHING

Grids = tuple[tuple[int, int, int], ...]

MEMBERS = 4
GRIDS = ((1, 4, 8), (1, 8, 10), (1, 4, 8), (2, 4, 10))
"""(t, h, w) in patches; two pictures are of one size, and windows of 2x2 units cut all of them."""
UNITS = sum(t * h * w for t, h, w in GRIDS) // MEMBERS
UNIT_WIDTH = MEMBERS * WIDTH
TOWERS = (
    *("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen2_5_omni", "qwen3_omni_moe"),
    *("qwen3_5", "qwen3_5_moe", "exaone4_5", "cohere_compass", "glm4v", "glm4v_moe", "glm_ocr"),
)


def grids_of(family: str, grids: Grids = GRIDS) -> Grids:
    """Grids as a family's tower takes them: GLM's takes the frames of a clip as pictures."""
    if not family.startswith("glm"):
        return grids
    return tuple((1, height, width) for frames, height, width in grids for _ in range(frames))


def launching(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let attention on the CPU compute as much in vain as where operations are launched."""
    monkeypatch.setitem(BY_TYPE, "cpu", LAUNCHING)


def tower(
    family: str = "qwen2_5_vl", dtype: torch.dtype = torch.float32, attention: str = "sdpa"
) -> Any:
    """The tower of a family's tiny model; tests share it, so they leave it as it was."""
    case = CASES[family]
    reason = case.missing()
    if reason:
        pytest.skip(f"{family}: {reason}")
    return case.build(dtype, attention).model.visual


def call(grids: Grids = GRIDS, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Rows of random patches and the grids they are of; a grid's rows depend on it alone."""
    rows = [
        torch.randn(t * h * w, ROW, generator=torch.Generator().manual_seed(97 * h + 7 * w + t))
        for t, h, w in grids
    ]
    return {"hidden_states": torch.cat(rows).to(dtype), "grid_thw": torch.tensor(grids)}


def run(model: Any, given: dict[str, Tensor]) -> list[Tensor]:
    """What the tower makes of every unit: `[U, d]`, and the same of every DeepStack level."""
    with torch.no_grad():
        made = model(**given)
    return [made.pooler_output, *(getattr(made, "deepstack_features", None) or ())]


def plan(*stages: dict[str, Any], **rest: Any) -> dict[str, Any]:
    """A plan of encoder stages."""
    at = [{"at": "encoder", **stage} for stage in stages]
    return {"schema_version": 1, "seed": 3, "stages": at, **rest}
