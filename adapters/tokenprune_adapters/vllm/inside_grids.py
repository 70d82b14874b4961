"""Plans inside the towers of Qwen2.5-VL, Qwen3-VL, Qwen3.5, GLM and others, by config alone."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from tokenprune.engine.stages import built
from tokenprune.integrations import PrunedPackedEncoder, packed_encoder
from tokenprune.interface.packed import PackedEncoderAdapter
from tokenprune.interface.signals import BLOCK_VIEWS, CLASS_VIEWS
from tokenprune.interface.sites import Site
from tokenprune.plan import Plan
from tokenprune_adapters.vllm.served import check_signals

FOLLOWED = {
    "qwen2_vl": "Qwen2VisionTransformerPretrainedModel",
    "qwen2_5_vl": "Qwen2_5_VisionTransformerPretrainedModel",
    "qwen2_5_omni_thinker": "Qwen2_5OmniVisionEncoder",
    "qwen3_omni_moe_thinker": "Qwen3OmniMoeVisionEncoder",
    "qwen3_vl": "Qwen3VLVisionModel",
    "qwen3_vl_moe": "Qwen3VLMoeVisionModel",
    "qwen3_5": "Qwen3_5VisionModel",
    "qwen3_5_moe": "Qwen3_5MoeVisionModel",
    "glm4v": "Glm4vVisionModel",
    "glm4v_moe": "Glm4vMoeVisionModel",
    "glm_ocr": "GlmOcrVisionModel",
    "paddleocr_vl": "PaddleOCRVisionModel",
}
"""Types of the configs of models whose towers are followed in vLLM, and transformers' towers."""


def inside(config: Any, plan: Plan) -> PrunedPackedEncoder | None:
    """A plan that acts inside the tower, in the tower of transformers without weights.

    So counts and refusals are those of `attach`. None for other plans, whose stages choose among
    features, and for families whose towers aren't followed.

    Raises:
        PlanError: a stage that no engine can run.
        BudgetError: a budget can't be reached.
        SignalError: a strategy reads the question, or what the tower doesn't have.
        LayerError: a stage names a block that the tower hasn't.
    """
    vision = config.vision_config
    depth = vision.depth if hasattr(vision, "depth") else vision.num_hidden_layers
    site = Site.behind(depth)
    if config.model_type not in FOLLOWED or not acts_inside(plan, site):
        return None
    check_signals(
        plan,
        PackedEncoderAdapter.supplies,
        site,
        "Choose a method that reads features, or signals of this tower.",
    )
    family = config.model_type.removesuffix("_thinker")
    module = f"transformers.models.{family}.modeling_{family}"
    with torch.device("meta"):
        tower = getattr(import_module(module), FOLLOWED[config.model_type])(config.vision_config)
    return packed_encoder(tower, plan)


def acts_inside(plan: Plan, site: Site) -> bool:
    """Whether a plan has encoder stages, or reads behind the tower what is computed in it."""
    stages = built(plan)
    behind = [stage.strategy for stage in stages if stage.plan.at == "pre_llm"]
    read = {signal.needs for strategy in behind for signal in strategy.signals(site)}
    inner = any(stage.plan.at == "encoder" for stage in stages)
    return inner or bool(read & (BLOCK_VIEWS | CLASS_VIEWS))
