"""Plans that the tests of families share, and where the layers are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

LAYER = {
    "qwen3_5": 3,
    "qwen3_5_moe": 3,
    "qwen4_exp": 3,
    "glm5_next": 3,
    "mistral_large4": 2,
    "hy_v4_vl": 2,
    "lfm2_vl": 3,
    "lfm3_vl": 3,
    "minicpmv4_6": 3,
    "minicpm_ocr": 3,
    "minicpmv4_7": 3,
    "nemotron_h_omni": 3,
    "gemma4-shared": 0,
    "gemma3n": 2,
}
"""In front of which layer is cut; 2 for most families."""
WAYS = {
    "positions of one axis": "llava_next",
    "positions of three axes": "qwen2_5_vl",
    "windows": "aya_vision",
    "linear attention": "qwen3_5",
    "convolutions": "lfm2_vl",
    "layers without a cache": "nemotron_h_omni",
}
"""What the engine heeds in calls of LLMs and their layers, and a family with each of it."""
BESIDE = ("ple_input_ids",)
"""Arguments of LLMs with token ids, which they heed beside embeddings."""


def plan(*stages: dict[str, Any], **rest: Any) -> dict[str, Any]:
    """A plan with a seed."""
    return {"schema_version": 1, "seed": 3, "stages": list(stages), **rest}


def decoder(name: str, keep: Any) -> dict[str, Any]:
    """A stage inside the LLM."""
    return {"strategy": "random", "at": "decoder", "layer": LAYER.get(name, 2), "keep": keep}


def staged(name: str, stages: str, keep: Any) -> dict[str, Any]:
    """A plan with a stage in front of the LLM, inside of it, or both."""
    early = {"strategy": "random", "at": "pre_llm", "keep": keep}
    late = decoder(name, keep)
    return plan(*{"pre_llm": [early], "decoder": [late], "both": [early, late]}[stages])


def core(model: Any) -> Any:
    """What calls tower and LLM; in Llama 4 the model with its head."""
    return getattr(model, "model", model)


def head(model: Any) -> nn.Module:
    """What makes logits of the LLM's states; in Nemotron's the LLM has it."""
    return getattr(model, "lm_head", None) or model.language_model.lm_head


def language(model: Any) -> Any:
    """The LLM without head."""
    inner = core(model)
    found = inner.text_model if hasattr(inner, "text_model") else inner.language_model
    return getattr(found, "model", found)


def beside(given: Mapping[str, Any], kept: Tensor) -> dict[str, Tensor]:
    """What the LLM was given of every token beside its embedding, for some places `[K]`."""
    return {name: given[name][:, kept] for name in BESIDE if given.get(name) is not None}


def layers(model: Any) -> list[nn.Module]:
    """The layers of the LLM."""
    return list(language(model).layers)
