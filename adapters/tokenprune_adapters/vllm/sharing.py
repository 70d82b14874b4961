"""What several served models share; imported when an engine runs one."""

from __future__ import annotations

from typing import Any

from torch import nn
from vllm.model_executor.models.utils import WeightsMapper

from tokenprune.errors import UnsupportedCallError

#: Parts of a tower that transformers 5 saves without the name `vision_model` in front.
PARTS = ("embeddings", "pre_layrnorm", "encoder", "post_layernorm", "head")


def with_bare_towers(mapper: Any) -> Any:
    """A model's mapping of the names of weights, and that of towers as transformers 5 saves them.

    Args:
        mapper: vLLM's own, which puts towers at `vision_tower`.
    """
    prefixes = {f"vision_tower.{part}.": f"vision_tower.vision_model.{part}." for part in PARTS}
    return mapper | WeightsMapper(orig_to_new_prefix=prefixes)


def require_pixels(image_input: Any) -> None:
    """Refuse features that were computed before.

    Raises:
        UnsupportedCallError: the input of a model isn't pixels.
    """
    if not image_input["type"].startswith("pixel_values"):
        raise UnsupportedCallError(
            "embeddings that were computed before bypass the tower and the plan.",
            where=image_input["type"],
            remedy="Send pictures or clips.",
        )


def words_of(llm: nn.Module) -> nn.Module:
    """The embedding of an LLM's words, without what adapters add to it.

    What an adapter adds belongs to a request, and pictures and clips are cached for all of them.

    Args:
        llm: what a model calls its language model.
    """
    found = next(one for name, one in llm.named_modules() if name.endswith("embed_tokens"))
    plain: nn.Module = getattr(found, "base_layer", found)
    return plain
