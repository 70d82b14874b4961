"""How many rows and columns of patches each family makes one token of, read from its core."""

from __future__ import annotations

from typing import Any

from tokenprune.errors import UnsupportedModelError
from tokenprune_adapters.transformers.vit_names import default_grid


def patch(core: Any) -> int:
    """Every patch is a unit."""
    return 1


def shuffled(core: Any) -> int:
    """The patches of a square side by side (InternVL)."""
    ratio: float = core.config.downsample_ratio
    return round(1 / ratio)


def shuffled_inside(core: Any) -> int:
    """The same, inside of the tower (Llama 4)."""
    ratio: float = core.config.vision_config.pixel_shuffle_ratio
    return round(1 / ratio)


def scaled(core: Any) -> int:
    """The same (Idefics3, SmolVLM)."""
    return int(core.config.scale_factor)


def downsampled(core: Any) -> int:
    """The same (Aya Vision, Cohere2 Vision, LFM2-VL)."""
    return int(core.config.downsample_factor)


def merged(core: Any) -> int:
    """The patches of a square side by side (Mistral 3)."""
    return int(core.config.spatial_merge_size)


def strode(core: Any) -> int:
    """The same (Ovis2).

    Raises:
        UnsupportedModelError: the last squares are made up with padding.
    """
    side, grid = int(core.config.vision_config.hidden_stride), default_grid(core.vision_tower)
    if any(length % side for length in grid):
        raise UnsupportedModelError(
            f"{grid[0]} x {grid[1]} patches aren't made of squares of {side} x {side}.",
            where="config.vision_config.hidden_stride",
            remedy="Use a model whose image_size is made of whole squares, as released ones are.",
        )
    return side


def merged_inside(core: Any) -> int:
    """The same where the tower's config says it (PaddleOCR-VL)."""
    return int(core.config.vision_config.spatial_merge_size)


def merged_behind(core: Any) -> int:
    """The same, perhaps several times one behind the other (MiniCPM-V)."""
    times: int = core.config.merger_times
    return int(kernel(core) ** times)


def kernel(module: Any) -> int:
    """Rows and columns of the square that a core or tower merges, by its config.

    Raises:
        UnsupportedModelError: what is merged is no square.
    """
    high, wide = module.config.merge_kernel_size
    if high != wide:
        raise UnsupportedModelError(
            f"units of {high} x {wide} rows are no squares.",
            where="config.merge_kernel_size",
            remedy="Use a model that merges squares, as released ones do.",
        )
    return int(high)


def averaged(core: Any) -> int:
    """The mean of a square (Gemma 3)."""
    return int(core.multi_modal_projector.kernel_size)


def strided(core: Any) -> int:
    """The mean of a square of a frame (LLaVA-NeXT-Video)."""
    return int(core.config.spatial_pool_stride)


def averaged_behind(core: Any) -> int:
    """The mean of a square behind the projector (PerceptionLM)."""
    return int(core.config.projector_pooling_ratio)
