"""Which patch of which tile every feature of a picture shows, where the core stitches tiles.

The core's own code arranges the numbers of the patches as it arranges their features, so nothing
of it is written again here: padding that is cut away, newlines, and maps that are resized.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from tokenprune_adapters.shared.arguments import parameters

NEWLINE, BLENDED = -1, -2
"""In place of a patch's number: a newline; a mean of several patches."""
METHOD = "pack_image_features"
"""Method of the core that arranges features."""
TILES = "image_size_to_num_patches"
"""Function beside the core: how many tiles a picture of a size has, the base tile included."""


Size = tuple[int, ...]
KEPT = 256
"""Sizes of pictures of a model that are remembered."""
_KNOWN: WeakKeyDictionary[nn.Module, dict[Any, Tensor]] = WeakKeyDictionary()


def sizes_of(given: Mapping[str, Any]) -> list[Size]:
    """Heights and widths in pixels, which may be given as a tensor or as pairs of numbers."""
    sizes = given["image_sizes"]
    pairs = sizes.tolist() if isinstance(sizes, Tensor) else sizes
    return [(int(height), int(width)) for height, width in pairs]


def sources(core: Any, given: Mapping[str, Any], count: int) -> Iterator[tuple[int, Tensor]]:
    """Tiles of every picture, and the number of every feature's patch among those of all tiles.

    A feature that is the mean of several patches is known by its square: the mean of squares is
    greater than the square of the mean.

    Args:
        core: the model without head.
        given: arguments of the method that makes the features.
        count: patches of a tile.
    """
    first, aspect = 0, given.get("vision_aspect_ratio")
    sizes = sizes_of(given)
    for size, tiles in zip(sizes, _tiles(core, sizes, given), strict=True):
        own = _arranged(core, size, tiles, count, aspect)
        yield tiles, torch.where(own < 0, own, own + first)
        first += tiles * count


def _arranged(core: Any, size: Size, tiles: int, count: int, aspect: str | None) -> Tensor:
    """What the core makes of the numbers of one picture's patches; known pictures are looked up."""
    config = core.config
    aspect = aspect or getattr(config, "vision_aspect_ratio", None)
    canvases = tuple(map(tuple, config.image_grid_pinpoints))
    known = _KNOWN.setdefault(core, {})
    key = (size, tiles, count, aspect, canvases)
    if key not in known:
        if len(known) >= KEPT:
            known.clear()
        known[key] = _arrange(core, size, tiles, count, aspect)
    return known[key]


def _arrange(core: Any, size: Size, tiles: int, count: int, aspect: str | None) -> Tensor:
    number = torch.arange(tiles * count, dtype=torch.float64, device="cpu")
    marked = torch.stack((number, number.square()), dim=-1).view(tiles, count, 2)
    wanted = {
        "vision_feature_select_strategy": core.config.vision_feature_select_strategy,
        "vision_aspect_ratio": aspect,
        "image_newline": torch.tensor([NEWLINE, NEWLINE**2], dtype=torch.float64, device="cpu"),
    }
    taken = parameters(getattr(type(core), METHOD))
    rest = {name: value for name, value in wanted.items() if name in taken}
    made = getattr(core, METHOD)([marked], [size], **rest)
    # some releases put out the lengths beside the list
    (arranged,) = made if isinstance(made, list) else made[0]
    mean, squares = arranged.unbind(dim=-1)
    return torch.where(mean.square() == squares, mean, BLENDED).long()


def _tiles(core: Any, sizes: Sequence[Size], given: Mapping[str, Any]) -> list[int]:
    """Tiles of every picture; several pictures of one prompt may not be cut into tiles."""
    config, number = core.config, getattr(sys.modules[type(core).__module__], TILES)
    several = given.get("batch_num_images")
    cut = [True] * len(sizes)
    if several is not None:
        cut = [bool(n == 1) for n in several.tolist() for _ in range(n)]
    tile = config.vision_config.image_size
    return [
        int(number(image_size=size, grid_pinpoints=config.image_grid_pinpoints, patch_size=tile))
        if apart
        else 1
        for size, apart in zip(sizes, cut, strict=True)
    ]
