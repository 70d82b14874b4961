"""Plans inside the tower of Mistral 3 or of a LLaVA with Pixtral's, by config alone."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch

from tokenprune.integrations import PrunedPackedEncoder, packed_encoder
from tokenprune.interface.packed import PackedEncoderAdapter
from tokenprune.interface.sites import Site
from tokenprune.plan import Plan
from tokenprune_adapters.vllm.inside_grids import acts_inside
from tokenprune_adapters.vllm.served import check_signals


def inside_rows(config: Any, plan: Plan) -> PrunedPackedEncoder | None:
    """A plan that acts inside a tower of Pixtral, in that of transformers without weights.

    None for other plans, whose stages choose among features.

    Args:
        config: of a model with one feature layer.
        plan: the plan.

    Raises:
        PlanError: a stage that no engine can run.
        BudgetError: a budget can't be reached.
        SignalError: a strategy reads the question, or what the tower doesn't have.
        LayerError: a stage names a block that isn't there or isn't read.
    """
    from transformers import PixtralVisionModel

    vision, layer = copy(config.vision_config), config.vision_feature_layer
    used = vision.num_hidden_layers + 1 + layer if layer < 0 else layer
    site = Site.behind(used)
    if not acts_inside(plan, site):
        return None
    check_signals(
        plan,
        PackedEncoderAdapter.supplies,
        site,
        "Choose a method that reads features, or signals of this tower.",
    )
    vision.num_hidden_layers = used  # vLLM builds no more
    with torch.device("meta"):
        tower = PixtralVisionModel(vision)
    return packed_encoder(tower, plan)
