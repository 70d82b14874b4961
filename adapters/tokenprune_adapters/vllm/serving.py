"""A plan on a checkpoint that vLLM is to serve: what would be refused, and the counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tokenprune.errors import PlanError, UnsupportedModelError
from tokenprune.plan import Plan, load_plan
from tokenprune_adapters.transformers import layer_configs
from tokenprune_adapters.vllm.frames import next_video
from tokenprune_adapters.vllm.grids import grids
from tokenprune_adapters.vllm.names import PLAN, UNSERVED, WINDOWS
from tokenprune_adapters.vllm.one_size import one_size
from tokenprune_adapters.vllm.pieces import idefics, internvl
from tokenprune_adapters.vllm.rows import llava_pixtral, mistral3
from tokenprune_adapters.vllm.served import ServedPlan
from tokenprune_adapters.vllm.slices import slices
from tokenprune_adapters.vllm.tiles import tiles


def _llava(config: Any, plan: Plan) -> ServedPlan:
    pixtral = config.vision_config.model_type == "pixtral"
    return llava_pixtral(config, plan) if pixtral else one_size(config, plan)


def _thinker(config: Any, plan: Plan) -> ServedPlan:
    return grids(config.thinker_config, plan)


#: How a plan is served, by the type of the model's config.
FAMILIES: Mapping[str, Callable[[Any, Plan], ServedPlan]] = {
    "granite4_vision": tiles,
    "llava": _llava,
    "llava_next": tiles,
    "llava_next_video": next_video,
    "llava_onevision": tiles,
    "idefics3": idefics,
    "internvl": internvl,
    "minicpmv4_6": slices,
    "mistral3": mistral3,
    "smolvlm": idefics,
    "qwen2_5_vl": grids,
    "qwen3_vl": grids,
    "qwen2_5_omni": _thinker,
    "qwen3_omni_moe": _thinker,
    "qwen2_vl": grids,
    "qwen3_vl_moe": grids,
    "qwen3_5": grids,
    "qwen3_5_moe": grids,
    "glm4v": grids,
    "glm4v_moe": grids,
    "glm_ocr": grids,
    "paddleocr_vl": grids,
}


def served_plan(config: Any, plan: Any = None) -> ServedPlan:
    """The plan of a config, checked.

    Args:
        config: of a served family, as transformers reads it.
        plan: a plan, a file or a mapping; by default what `--hf-overrides` put into the config.

    Raises:
        PlanError: there is no plan, or one that vLLM can't serve, with the reason.
        BudgetError: a budget can't be reached.
        SignalError: a strategy reads the question, or what the tower doesn't have.
        UnsupportedModelError: a family, a tower, a choice of features or an LLM that isn't served.
    """
    given = getattr(config, PLAN, None) if plan is None else plan
    if given is None:
        raise PlanError(
            "there is no plan.",
            where=f"--hf-overrides, {PLAN}",
            remedy="Print the option with: tokenprune vllm args PLAN MODEL.",
        )
    if config.model_type not in FAMILIES:
        why = f": {UNSERVED[config.model_type]}" if config.model_type in UNSERVED else ""
        raise UnsupportedModelError(
            f"models of type '{config.model_type}' aren't served{why}.",
            where="config.model_type",
            remedy=f"Served are {', '.join(FAMILIES)}.",
        )
    served = FAMILIES[config.model_type](config, load_plan(given))
    # without masks that could be cut, every window is counted in places of the prompt
    llm = getattr(config, "thinker_config", config).text_config
    if served.plan.stages and layer_configs.window(llm, (), flat=False) is not None:
        raise UnsupportedModelError(
            f"{WINDOWS}.",
            where="config.text_config",
            remedy="Serve a model whose layers see the whole prompt.",
        )
    served.pictures()  # counts that can't be had, before an engine starts
    return served
