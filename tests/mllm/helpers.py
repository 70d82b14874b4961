"""Models, prompts and plans that the tests of the MLLM side share."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from tests import models
from tests.models import IMAGE_TOKEN as IMG

SHORT = [1, 10, IMG, 11, 12, 13]
LONG = [1, IMG, 20, 21, IMG, 22, 23, 24, 25]
TEXT = [1, 30, 31, 32]
NEW = 5


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


def plan(*stages: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {"schema_version": 1, "stages": list(stages), **rest}


def pick(*index: int, at: str = "pre_llm", **rest: Any) -> dict[str, Any]:
    """A stage that keeps the tokens named of one image."""
    return {
        "at": at,
        "strategy": "t-pick",
        "keep": len(index),
        "params": {"index": list(index)},
        **rest,
    }


def fastv(layer: int = 2, keep: Any = 0.25) -> dict[str, Any]:
    return {"at": "decoder", "strategy": "fastv", "layer": layer, "keep": keep}


def tome(keep: int = 18) -> dict[str, Any]:
    return {"at": "encoder", "strategy": "tome", "keep": keep}


def drawn(keep: int = 9, at: str = "pre_llm", **rest: Any) -> dict[str, Any]:
    return {"at": at, "strategy": "random", "keep": keep, **rest}


def trimming(layer: int, keep: int, index: tuple[int, ...] = ()) -> dict[str, Any]:
    """A stage that also trims the caches of the layers before it."""
    params = {"index": list(index)}
    return {"at": "decoder", "strategy": "t-trim", "layer": layer, "keep": keep, "params": params}


COMBINATIONS = {
    "encoder": plan(tome()),
    "pre_llm": plan(drawn()),
    "decoder": plan(fastv()),
    "pyramid": plan(fastv(1, 18), fastv(2, 8), fastv(3, 2)),
    "all": plan(tome(), drawn(), fastv(2, 4)),
    "ragged": plan({"at": "pre_llm", "strategy": "t-ragged", "keep": 0.5}, fastv(2, 0.5)),
    "exit": plan({"at": "decoder", "strategy": "t-exit", "layer": 2, "keep": 0.5}),
    "merge": plan({"at": "decoder", "strategy": "t-pairs", "layer": 2, "keep": 0.5}),
    "first layer": plan(drawn(9, at="decoder", layer=0), fastv(2, 4)),
    "exits": plan(drawn(), {"at": "decoder", "strategy": "t-leave"}),
    "trim": plan(fastv(1, 9), trimming(3, 4)),
    "compact": plan(drawn(), fastv(2, 4), positions="compact"),
}


def greedy(of: Any, call: dict[str, Tensor], **kwargs: Any) -> Tensor:
    """New tokens of greedy generation."""
    out = of.generate(**call, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, **kwargs)
    assert torch.equal(out[:, : call["input_ids"].shape[1]], call["input_ids"])
    return out[:, call["input_ids"].shape[1] :]


def logits(of: Any, call: dict[str, Tensor], **kwargs: Any) -> Tensor:
    """Logits of a plain forward."""
    with torch.no_grad():
        return of(**call, **kwargs).logits
