"""How many units the pictures of each family have, read from the features that its core makes.

Every function here gets the core, the arguments of the method that made the features by name, and
the features of each picture or tile `[L, d]` in prompt order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from tokenprune.interface.calls import Arguments
from tokenprune.interface.places import Places, Span
from tokenprune.interface.sites import Grid
from tokenprune_adapters.transformers import stitching, unit_sides

Features = Sequence[Tensor]
Read = Callable[[Any, Arguments, Features], list[Places]]
Frames = Callable[[Arguments], Sequence[int] | None]


def square(core: Any, given: Arguments, features: Features) -> list[Places]:
    """A square of units each; a line where it isn't one."""
    return [Places(_square(len(rows))) for rows in features]


def packed(name: str, setting: str = "spatial_merge_size") -> Read:
    """Grids (t, h, w) of patches in an argument, of which a square makes a unit.

    Args:
        name: of the argument.
        setting: of the tower, with the side of the square.
    """

    def read(core: Any, given: Arguments, features: Features) -> list[Places]:
        side = getattr(core.config.vision_config, setting)
        return [Places((t, h // side, w // side)) for t, h, w in given[name].tolist()]

    return read


def rowed(name: str) -> Read:
    """The same as `packed` of pictures, with a newline behind every row and marks around all."""

    def read(core: Any, given: Arguments, features: Features) -> list[Places]:
        grids = [one.grid for one in packed(name)(core, given, features)]
        newlines = [_newlines(grid, first=1) for grid in grids]
        return [
            Places(grid, {0: None, **mine, max(mine) + 1: None})
            for grid, mine in zip(grids, newlines, strict=True)
        ]

    return read


def lined(name: str) -> Read:
    """The same as `packed`, with a newline behind every row of every frame (Hy4)."""

    def read(core: Any, given: Arguments, features: Features) -> list[Places]:
        grids = [one.grid for one in packed(name)(core, given, features)]
        return [Places(grid, _newlines(grid)) for grid in grids]

    return read


def _newlines(grid: Grid, first: int = 0) -> dict[int, Span | None]:
    """A newline behind every row of a grid, of which the first unit stands in a place."""
    frames, high, wide = grid
    ends = range(first + wide, first + frames * high * (wide + 1), wide + 1)
    return {end: (end - wide, end) for end in ends}


def packed_in_time(name: str) -> Read:
    """The same as `packed`, where the squares of several frames make a unit (ERNIE 4.5 VL)."""

    def read(core: Any, given: Arguments, features: Features) -> list[Places]:
        vision = core.config.vision_config
        side, span = vision.spatial_merge_size, vision.temporal_merge_size
        return [Places((t // span, h // side, w // side)) for t, h, w in given[name].tolist()]

    return read


def gridded(given: Arguments) -> Sequence[int] | None:
    """Frames of every clip, which the tower is given as pictures; None for pictures (GLM)."""
    grids: Tensor | None = given.get("video_grid_thw")
    return None if grids is None else [int(frames) for frames, _, _ in grids.tolist()]


def packed_by(name: str, sides: str) -> Read:
    """The same as `packed`, where another argument says the side of the square of every picture."""

    def read(core: Any, given: Arguments, features: Features) -> list[Places]:
        pairs = zip(given[name].tolist(), given[sides].tolist(), strict=True)
        return [Places((t, h // side, w // side)) for (t, h, w), side in pairs]

    return read


def sized(core: Any, given: Arguments, features: Features) -> list[Places]:
    """Sizes in pixels, of which a square makes a unit."""
    unit = core.config.vision_config.patch_size * core.config.spatial_merge_size
    return [Places((1, h // unit, w // unit)) for h, w in stitching.sizes_of(given)]


def coded(core: Any, given: Arguments, features: Features) -> list[Places]:
    """The same where convolutions make a code of every square (Apertus 1.5)."""
    side = core.config.vision_config.spatial_scale_factor
    return [Places((1, h // side, w // side)) for h, w in stitching.sizes_of(given)]


def shaped(core: Any, given: Arguments, features: Features) -> list[Places]:
    """Rows and columns of patches, of which a square makes a unit."""
    side = core.config.downsample_factor
    return [Places((1, h // side, w // side)) for h, w in given["spatial_shapes"].tolist()]


def averaged_in_time(name: str) -> Read:
    """Grids (t, h, w) of patches in an argument; a unit is a square of all frames (Kimi K2.5)."""

    def read(core: Any, given: Arguments, features: Features) -> list[Places]:
        side = unit_sides.kernel(core.vision_tower)
        return [Places((1, h // side, w // side)) for _, h, w in given[name].tolist()]

    return read


def targeted(name: str) -> Read:
    """Rows and columns of patches in an argument, of which squares of squares make a unit.

    A call or the config may say that they are merged once only (MiniCPM-V).
    """

    def read(core: Any, given: Arguments, features: Features) -> list[Places]:
        mode = given.get("downsample_mode") or core.config.downsample_mode
        side = unit_sides.merged_behind(core) * (1 if mode == "4x" else 2)
        return [Places((1, h // side, w // side)) for h, w in given[name].tolist()]

    return read


def patched(core: Any, given: Arguments, features: Features) -> list[Places]:
    """Sizes in pixels, or pictures that fill their tensor, of which every patch is a unit."""
    side, pixels, sizes = core.config.vision_config.patch_size, given["pixel_values"], None
    if given.get("image_sizes") is not None:
        sizes = stitching.sizes_of(given)
    pairs = [pixels.shape[-2:]] * len(pixels) if sizes is None else sizes
    return [Places((1, int(h) // side, int(w) // side)) for h, w in pairs]


def tiled(core: Any, given: Arguments, features: Features) -> list[Places]:
    """A base tile and the rows of the stitched map, each with a newline at its end.

    Units of several tiles stand in a line, because base and map share no grid.
    """
    vision = core.config.vision_config
    return tiles_of_side(core, given, vision.image_size // vision.patch_size)


def tiles_of_side(core: Any, given: Arguments, side: int) -> list[Places]:
    """The same of tiles that are squares of units, `side` along each side."""
    base, found = side**2, list[Places]()
    for tiles, sources in stitching.sources(core, given, base):
        others: dict[int, Span | None] = {}
        # the base tile has no newline, unless it is all there is
        start = base if tiles > 1 else 0
        for end in (sources == stitching.NEWLINE).nonzero()[:, 0].tolist():
            others[end] = (start, end)
            start = end + 1
        units = sources[sources != stitching.NEWLINE]
        blended = bool((units == stitching.BLENDED).any())
        parts: list[tuple[int, int]] = []
        if tiles > 1:
            parts = [(side, side), (len(others), (len(sources) - base) // len(others) - 1)]
        grid = _square(len(units)) if tiles == 1 else (1, 1, len(units))
        known = None if blended else units
        found.append(Places(grid, others, known, blended, tuple(parts), tiles))
    return found


def resized(core: Any, given: Arguments) -> str | None:
    """Why a token of tiled pictures shows several patches; None if none does."""
    vision = core.config.vision_config
    arranged = stitching.sources(core, given, (vision.image_size // vision.patch_size) ** 2)
    for (_, sources), (high, wide) in zip(arranged, stitching.sizes_of(given), strict=True):
        if bool((sources == stitching.BLENDED).any()):
            most = given.get("vision_aspect_ratio") or core.config.vision_aspect_ratio
            return (
                f"one of {high} x {wide} pixels has more tiles than '{most}' allows, so its map is "
                "resized, so that every token shows several patches."
            )
    return None


def may_be_resized(core: Any) -> str | None:
    """The same of pictures as large as the largest maps that the config has."""
    return resized(core, {"image_sizes": core.config.image_grid_pinpoints})


def frames(core: Any, given: Arguments, features: Features) -> list[Places]:
    """Clips `[V, F, 3, H, W]` with equally many units in a frame."""
    count = _clips(given).shape[1]
    return [Places(_clip(len(rows), count)) for rows in features]


def frames_with_newline(core: Any, given: Arguments, features: Features) -> list[Places]:
    """Clips with one newline at the end, which some releases add later."""
    vision = core.config.vision_config
    side = math.ceil(vision.image_size // vision.patch_size / 2)
    count = _clips(given).shape[1]
    units = count * side**2
    return [Places((count, side, side), {units: (0, units)}) for _ in features]


def frames_with_class(core: Any, given: Arguments, features: Features) -> list[Places]:
    """Frames one by one, each with a class token in front; the clips `[V, F, 3, H, W]` of them."""
    clips, count = _clips(given).shape[:2]
    length = len(features[0])
    others: dict[int, Span | None] = {frame * length: None for frame in range(count)}
    return [Places((count, *_square(length - 1)[1:]), others) for _ in range(clips)]


def rows_of_tiles(core: Any, given: Arguments, features: Features) -> list[Places]:
    """All tiles of a prompt in one tensor, equally many units each.

    They are four times as many where a call takes the fine route (Granite Docling).
    """
    units = int(core.image_seq_len) * (1 if given.get("tile_fine_mask") is None else 4)
    return [Places(_square(units)) for _ in range(sum(len(rows) // units for rows in features))]


def stacked_tiles(core: Any, given: Arguments, features: Features) -> list[Places]:
    """Equally many tiles of every picture, `[n, T, 3, H, W]`, the first of them the overview."""
    tiles, several = square(core, given, features), given["pixel_values"].shape[1]
    return [Places.of_tiles(tiles[at : at + several]) for at in range(0, len(tiles), several)]


def crops_in_front(core: Any, given: Arguments, features: Features) -> list[Places]:
    """Squares of equally many units, those of crops in front of that of the whole (Step 3.7)."""
    pixels, counts = given["pixel_values"], given.get("num_local_patches")
    crops = [0] * len(features) if counts is None else [int(count) for count in counts]
    whole = _downsampled(core, pixels)
    found = []
    for rows, count in zip(features, crops, strict=True):
        crop = (len(rows) - math.prod(whole)) // count if count else 0
        found.append(Places.of_tiles([*[Places(_square(crop))] * count, Places(whole)], -1))
    return found


def _downsampled(core: Any, pixels: Tensor) -> Grid:
    """Rows and columns of patches after two convolutions, each of which leaves every other one."""
    side = core.config.vision_config.patch_size
    high, wide = (math.ceil(math.ceil(length // side / 2) / 2) for length in pixels.shape[-2:])
    return (1, high, wide)


def stacked_frames(core: Any, given: Arguments, features: Features) -> list[Places]:
    """The frames of clips `[V, F, 3, H, W]`, shown to the method of pictures."""
    clips, count = given["pixel_values"].shape[:2]
    return [Places((count, *_square(len(features[0]))[1:])) for _ in range(clips)]


def placed(core: Any, given: Arguments, features: Features) -> list[Places]:
    """Places (x, y) of patches `[n, P, 2]`, -1 for padding, of which a square makes a unit."""
    return _placed(given, len(features), core.config.vision_config.pooling_kernel_size)


def placed_whole(core: Any, given: Arguments, features: Features) -> list[Places]:
    """The same where squares come whole, each in one place (Gemma 4 unified)."""
    return _placed(given, len(features), 1)


def counted(given: Arguments) -> Sequence[int] | None:
    """Frames of every clip; None for pictures."""
    position, counts = given.get("video_position_ids"), given.get("num_frames_per_video")
    if position is None:
        return None
    if counts is None:  # before 5.19, clips [V, F, P, 2] are equally long
        return [position.shape[1] if position.dim() == 4 else 1] * len(position)
    found: list[int] = counts.tolist()
    return found


def _placed(given: Arguments, pictures: int, pool: int) -> list[Places]:
    position = given.get("image_position_ids", given.get("video_position_ids"))
    flat = position.reshape(-1, *position.shape[-2:])
    sides = (flat.amax(dim=1) + 1) // pool
    found, first = [], 0
    for count in counted(given) or [1] * pictures:
        wide, high = sides[first].tolist()
        found.append(Places((count, high, wide)))
        first += count
    return found


def _clips(given: Arguments) -> Tensor:
    """Pixels of clips, under the name that the release at hand gives them."""
    clips: Tensor = given[
        "pixel_values_videos" if "pixel_values_videos" in given else "pixel_values"
    ]
    return clips


def _square(count: int) -> Grid:
    side = math.isqrt(count)
    return (1, side, side) if side * side == count else (1, 1, count)


def _clip(count: int, several: int) -> Grid:
    return (several, *_square(count // several)[1:])
