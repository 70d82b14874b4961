"""The vision towers that speed is measured on, with random weights: time doesn't depend on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import tokenprune

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Tower:
    """A tower: how to build it, what to give it, and the kept count compared at.

    Attributes:
        name: in records.
        build: the model, in eval mode.
        inputs: a call with that many pictures.
        patches: tokens (units of a packed tower) of a picture.
        keep: how many are left.
        depth: number of blocks.
        packed: whether pictures are one sequence, whose parts are read from their grids.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Inputs]
    patches: int
    keep: int
    depth: int
    packed: bool = False

    def plan(self, strategy: str, *, early: bool = False) -> tokenprune.Plan:
        """The strategy with its defaults; those that merge do so on the Skip schedule.

        Args:
            strategy: its name.
            early: whether only the first third of the blocks acts.
        """
        stage: dict[str, Any] = {"at": "encoder", "strategy": strategy, "schedule": "skip"}
        if early:
            stage["layers"] = [0, -(-self.depth // 3) - 1]
        stage["keep"] = self.keep
        return tokenprune.load_plan({"schema_version": 1, "stages": [stage]})


def towers(*, tiny: bool = False) -> tuple[Tower, ...]:
    """All towers in the sizes that people run, or so small that a CPU runs them in no time."""
    if tiny:
        return (
            _timm("vit-tiny", 48, 8, 64, 4, 4, 18),
            _clip(48, 8, 64, 4, 4, 18),
            _qwen(112, 4, 64),
        )
    return (
        _clip(336, 14, 1024, 24, 16, 128),
        _siglip(384, 14, 1152, 27, 16, 64),
        _timm("vit-b16-224", 224, 16, 768, 12, 12, 64),
        _timm("vit-l16-224", 224, 16, 1024, 24, 16, 64),
        _qwen(336, 32, 1280),
    )


def _pictures(name: str, pixels: int) -> Callable[[int], Inputs]:
    return lambda batch: {name: torch.randn(batch, 3, pixels, pixels)}


def _timm(
    name: str, pixels: int, patch: int, width: int, depth: int, heads: int, keep: int
) -> Tower:
    def build() -> nn.Module:
        from timm.models.vision_transformer import VisionTransformer

        made: nn.Module = VisionTransformer(
            img_size=pixels, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads
        )
        return made.eval()

    return Tower(name, build, _pictures("x", pixels), (pixels // patch) ** 2, keep, depth)


def _clip(pixels: int, patch: int, width: int, depth: int, heads: int, keep: int) -> Tower:
    def build() -> nn.Module:
        from transformers import CLIPVisionConfig, CLIPVisionModel

        made: nn.Module = CLIPVisionModel(
            CLIPVisionConfig(**sizes(pixels, patch, width, depth, heads, 4 * width))
        )
        return made.eval()

    name = f"clip-l{patch}-{pixels}" if width == 1024 else "clip-tiny"
    return Tower(
        name, build, _pictures("pixel_values", pixels), (pixels // patch) ** 2, keep, depth
    )


def _siglip(pixels: int, patch: int, width: int, depth: int, heads: int, keep: int) -> Tower:
    def build() -> nn.Module:
        from transformers import SiglipVisionConfig, SiglipVisionModel

        made: nn.Module = SiglipVisionModel(
            SiglipVisionConfig(**sizes(pixels, patch, width, depth, heads, 4304))
        )
        return made.eval()

    pictures = _pictures("pixel_values", pixels)
    return Tower("siglip-so400m-384", build, pictures, (pixels // patch) ** 2, keep, depth)


def sizes(
    pixels: int, patch: int, width: int, depth: int, heads: int, inner: int
) -> dict[str, int]:
    """The config of a tower of transformers that sees pictures of one size."""
    return {
        "image_size": pixels,
        "patch_size": patch,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": inner,
    }


def qwen_vision(depth: int, width: int, out: int) -> dict[str, Any]:
    """The config of Qwen2.5-VL's tower; every eighth block attends to whole pictures."""
    return {
        "depth": depth,
        "hidden_size": width,
        "intermediate_size": 3420 if width == 1280 else 2 * width,
        "num_heads": 16 if width == 1280 else 4,
        "out_hidden_size": out,
        "fullatt_block_indexes": list(range(7, depth, 8)) or [depth - 1],
    }


def qwen_picture(pixels: int, batch: int) -> tuple[Tensor, Tensor]:
    """Rows `[P, 1176]` and grids `[batch, 3]` of random square pictures."""
    side = pixels // 14
    return torch.randn(batch * side * side, 1176), torch.tensor([[1, side, side]] * batch)


def _qwen(pixels: int, depth: int, width: int) -> Tower:
    """The packed tower of Qwen2.5-VL: pictures as one sequence, units of 2x2 patches."""

    def build() -> nn.Module:
        from transformers import Qwen2_5_VLConfig
        from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen

        config = Qwen2_5_VLConfig(vision_config=qwen_vision(depth, width, 2 * width))
        made: nn.Module = qwen.Qwen2_5_VisionTransformerPretrainedModel(config.vision_config)
        return made.eval()

    def inputs(batch: int) -> Inputs:
        rows, grids = qwen_picture(pixels, batch)
        return {"hidden_states": rows, "grid_thw": grids}

    units = (pixels // 28) ** 2
    keep = units // (4 if depth > 8 else 2)  # a tiny one has few sites, which can take half each
    return Tower(f"qwen2.5-vl-{pixels}", build, inputs, units, keep, depth, packed=True)
