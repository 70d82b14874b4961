"""FastVLM: a hybrid tower of timm, convolutions and attention behind them, as LLaVA's."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.case import Case
from tests.families.models.common import IMAGE, WIDTH, text
from tests.families.scenes import Image, Prompt

SIDE, PATCH = 192, 64
UNITS = (SIDE // PATCH) ** 2


class FastVlm(Case):
    """Five stages, as in released models, of which the last two attend."""

    def config(self) -> Any:
        from transformers import FastVlmConfig

        return FastVlmConfig(
            vision_config={
                "model_type": "timm_wrapper",
                "architecture": "fastvit_mci3",
                "do_pooling": True,
                "global_pool": "avg",
                "hidden_size": 2 * WIDTH,
                "model_args": {
                    "inference_mode": True,
                    "layers": [1] * 5,
                    "embed_dims": [8, 8, 16, WIDTH, WIDTH],
                },
            },
            text_config=text("qwen2"),
            image_token_index=IMAGE,
        )

    def missing(self, scene: str = "one") -> str | None:
        """The tower is timm's, which imports torchvision."""
        absent = [
            name for name in ("timm", "torchvision") if importlib.util.find_spec(name) is None
        ]
        if absent:
            return f"the tower needs {' and '.join(absent)}"
        return super().missing(scene)

    def create(self, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> Any:
        """Of weights as they are drawn, hardly anything of a picture would be left."""
        model = super().create(dtype, attention)
        with torch.no_grad():
            for name, parameter in model.model.vision_tower.named_parameters():
                if parameter.dim() == 4:
                    parameter.mul_(2)
                elif "layer_scale" in name:
                    parameter.add_(1)
        return model

    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        return [IMAGE] * UNITS

    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        shown = [scenes.pixels(image) for image in scenes.images(prompts)]
        return {"pixel_values": torch.stack(shown)} if shown else {}


CASES = (FastVlm("fast_vlm", "FastVlmForConditionalGeneration", ((SIDE, SIDE), (SIDE, SIDE))),)
