"""The parameters of `vscan`, and why those that the paper leaves open are as they are."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tokenprune.interface.strategy import StrategyParams
from tokenprune_strategies.shared.saliency import Attention

OURS = {
    "shallow": "a quarter of the used blocks: the paper's 6 of 24 (LLaVA) and 8 of 32 (Qwen2.5-VL)",
    "border": "LLaVA's code knows a grid that its windows divide",
    "quota": "LLaVA's code rounds down, Qwen2.5-VL's up; at the paper's budgets both are the same, "
    "and with small budgets rounding down would leave no local token",
}


class VScanParams(StrategyParams):
    """Parameters of `vscan`: of its stage before the LLM, except for the last one."""

    score: Attention = Field(
        default="cls",
        description="What a token is scored by in both scans: the class token's attention, or "
        "the attention it receives from all patches (encoders without class token).",
    )
    shallow: int | None = Field(
        default=None,
        ge=0,
        description="Encoder block of the local scan, from 0; by default at a quarter of the "
        "depth. The global scan reads the last used block.",
    )
    local: float = Field(
        default=0.5, ge=0, le=1, description="Share of the budget that the local scan may take."
    )
    window: int = Field(
        default=6,
        ge=1,
        description="Side of the local scan's windows, in patches.",
    )
    border: Literal["own", "joined"] = Field(
        default="own",
        description="What windows leave over at the right and lower border: smaller windows of "
        "their own, or a part of the last whole ones, as the code for Qwen2.5-VL has it.",
    )
    quota: Literal["ceil", "floor"] = Field(
        default="ceil",
        description="How a window's share of the local budget is rounded. `ceil`: the best tokens "
        "take what there is; `floor`: the global scan takes what is left over.",
    )
    merge_weight: Literal["token", "size"] = Field(
        default="token",
        description="Weights of the mean of a kept token and those merged into it: one each, or "
        "the patches that each stands for, where an earlier stage merged.",
    )
    rope_in_scoring: bool = Field(
        default=True,
        description="In the LLM: score by rotated queries and keys (as for LLaVA), or by plain "
        "ones (as the code for Qwen2.5-VL does).",
    )
