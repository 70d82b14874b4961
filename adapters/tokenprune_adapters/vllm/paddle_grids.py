"""Plans on pictures of PaddleOCR-VL: grids of merged tokens, without clips."""

from __future__ import annotations

from typing import Any

from tokenprune.plan import Plan
from tokenprune_adapters.vllm.grids import ServedGrids
from tokenprune_adapters.vllm.served import cached, check_behind, check_plan


def paddle(config: Any, plan: Plan) -> ServedGrids:
    """The plan on a PaddleOCR-VL, checked.

    Raises:
        PlanError: the plan can't be served, with the reason.
        BudgetError: a budget can't be reached.
        SignalError: a strategy reads signals.
    """
    check_plan(plan, "original")
    check_behind(plan)
    vision = config.vision_config
    merge = vision.spatial_merge_size
    return ServedGrids(plan, cached(config), vision.patch_size * merge, merge, 0)
