"""Models, prompts and calls that the tests of the MLLM side share."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from tokenprune_adapters.transformers.llm_names import CACHE_NAMES
from torch import Tensor

from tests import models
from tests.models import IMAGE_TOKEN as IMG

SHORT = [1, 10, IMG, 11, 12, 13]
LONG = [1, IMG, 20, 21, IMG, 22, 23, 24, 25]
TEXT = [1, 30, 31, 32]
NEW = 5


def cache_name(of: Any) -> str:
    """What the installed transformers calls the KV cache."""
    taken = inspect.signature(type(of).forward).parameters
    return next(name for name in CACHE_NAMES if name in taken)


def cache_of(outputs: Any) -> Any:
    """The KV cache in a model's outputs."""
    return next(outputs[name] for name in CACHE_NAMES if name in outputs)


def with_cache(of: Any, cache: Any) -> dict[str, Any]:
    """The KV cache as an argument of a model."""
    return {cache_name(of): cache}


@functools.cache
def model(kind: str = "clip", attention: str = "sdpa") -> Any:
    """A tiny LLaVA; tests share it, so they leave it as it was."""
    return BUILDERS[kind](attention)


def _mistral(attention: str) -> Any:
    from transformers import CLIPVisionConfig, MistralConfig

    language = MistralConfig(**models._language(), sliding_window=None)
    return models._llava(CLIPVisionConfig(**models._vision()), language, attention)


def _with_class_token(attention: str) -> Any:
    return models.llava_clip(attention, vision_feature_select_strategy="full")


BUILDERS = {
    "clip": models.llava_clip,
    "siglip": models.llava_siglip,
    "mistral": _mistral,
    "clip-full": _with_class_token,
}


def inputs(*prompts: list[int], side: str = "left") -> dict[str, Tensor]:
    """A call of the model; without pictures if no prompt has one."""
    call = models.llava_inputs(list(prompts), padding_side=side)
    if not len(call["pixel_values"]):
        del call["pixel_values"]
    return call


def split(call: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The calls of every sample alone, without padding."""
    alone, start = [], 0
    for ids, mask in zip(call["input_ids"], call["attention_mask"], strict=True):
        ids = ids[mask.bool()][None]
        pictures = int((ids == IMG).sum()) // models.PATCHES
        one = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if pictures:
            one["pixel_values"] = call["pixel_values"][start : start + pictures]
        start += pictures
        alone.append(one)
    return alone


def greedy(of: Any, call: dict[str, Tensor], **kwargs: Any) -> Tensor:
    """New tokens of greedy generation."""
    out = of.generate(**call, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, **kwargs)
    assert torch.equal(out[:, : call["input_ids"].shape[1]], call["input_ids"])
    return out[:, call["input_ids"].shape[1] :]


def logits(of: Any, call: dict[str, Tensor], **kwargs: Any) -> Tensor:
    """Logits of a plain forward."""
    with torch.no_grad():
        return of(**call, **kwargs).logits
