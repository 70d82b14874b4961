"""Calls of plain models that the tests of families share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from tests.families.case import Case
from tests.families.cases import CASES
from tests.families.models.common import library
from tests.families.plans import core, language
from tests.mllm.calls import with_cache

__all__ = ["begun", "case_of", "feature_rows", "generated", "language", "logits"]

STEPS = 4
"""How many tokens are generated behind the first new one."""
CACHELESS = "Granite4Vision"
"""How classes of models begin whose LLM makes no cache where it is given none."""
ARGUMENTS = {
    "image": (
        "pixel_values",
        "pixel_values_images",
        "pixel_attention_mask",
        "image_sizes",
        "image_grid_thw",
        "image_grid_hw",
        "spatial_shapes",
        "image_merge_sizes",
        "image_position_ids",
        "batch_num_images",
        "target_sizes",
        "image_token_pooling",
        "pixel_mask",
        "pixel_values_local",
        "num_local_patches",
        "high_res_pixel_values",
        "tile_fine_mask",
        "image_grids",
    ),
    "video": (
        "pixel_values_videos",
        "video_grid_thw",
        "video_merge_sizes",
        "video_position_ids",
        "num_frames_per_video",
        "target_sizes_videos",
        "video_token_pooling",
        "video_grids",
    ),
}


def case_of(name: str, scene: str = "one") -> Case:
    """The case; skips the test, by name, where the library can't run the scene."""
    case = CASES[name]
    reason = case.missing(scene)
    if reason:
        pytest.skip(f"{name}: {reason}")
    return case


def begun(model: Any) -> dict[str, Any]:
    """An empty cache as an argument, where an LLM makes none by itself; else nothing."""
    return with_cache(model, DynamicCache()) if type(model).__name__.startswith(CACHELESS) else {}


def logits(model: Any, call: dict[str, Tensor], **more: Tensor) -> Tensor:
    """Logits of a plain forward."""
    with torch.no_grad():
        out: Tensor = model(**call, **more).logits
    return out


def generated(model: Any, call: dict[str, Tensor], steps: int = STEPS) -> tuple[Tensor, Tensor]:
    """New tokens `[B, S]`, greedy, and the logits `[S, B, V]` that they were chosen by."""
    out = model.generate(
        **call,
        max_new_tokens=steps + 1,
        min_new_tokens=steps + 1,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    length = call["input_ids"].shape[1]
    assert torch.equal(out.sequences[:, :length], call["input_ids"])
    return out.sequences[:, length:], torch.stack(out.logits)


def feature_rows(model: Any, call: dict[str, Tensor], modality: str) -> int:
    """How many features the model makes of the pictures or clips of a call."""
    shown: dict[str, Any] = {name: call[name] for name in ARGUMENTS[modality] if name in call}
    if not shown:
        return 0
    # PerceptionLM shows clips to the method of its pictures; the name of pixels is not one for all
    inner = core(model)
    if library() < (5, 18) and type(model).__name__.startswith("Llama4"):
        shown["vision_feature_select_strategy"] = "default"  # has no effect, and no default there
    method = getattr(inner, f"get_{modality}_features", inner.get_image_features)
    pixels = shown.pop(next(iter(shown)))
    with torch.no_grad():
        found = method(pixels, **shown)
    pooled = getattr(found, "pooler_output", None)
    made = found.last_hidden_state if pooled is None else pooled
    if made is None:  # Granite 4 Vision has features of several depths only
        _, made = found.deepstack_features[0]
    tensors = [made] if isinstance(made, Tensor) else made
    return sum(tensor.reshape(-1, tensor.shape[-1]).shape[0] for tensor in tensors)
