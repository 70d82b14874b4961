"""Plans in vLLM: served models under names of our own, which `vllm.general_plugins` registers.

Nothing here imports vLLM, transformers or torch before vLLM asks for a model.
"""

from __future__ import annotations

from tokenprune_adapters.vllm.names import MODELS


def register() -> None:
    """Register the served models with vLLM; called in each of its processes, any number of times.

    The models are registered as strings: their module is imported when an engine runs one. Every
    other model gets a hook that refuses a plan, which it wouldn't follow.
    """
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from tokenprune_adapters.vllm.hook import NoPlanHook, PlanHook

    for name, place in MODELS.items():
        if name not in ModelRegistry.models:
            ModelRegistry.register_model(name, place)
        MODELS_CONFIG_MAP[name] = PlanHook
    for name in {*ModelRegistry.get_supported_archs()} - {*MODELS}:
        MODELS_CONFIG_MAP[name] = NoPlanHook.around(MODELS_CONFIG_MAP.get(name))
