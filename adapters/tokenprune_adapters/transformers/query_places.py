"""The places of tokens that learned queries make of whole pictures: they stand in a line.

Functions as in `picture_places`. No query shows a patch of its own, so the tokens have no place on
a picture, even where their number is a square.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from tokenprune.interface.calls import Arguments
from tokenprune.interface.places import Places
from tokenprune_adapters.transformers.picture_places import Features

_SHRUNK = 4
"""Rows of patches of which DeepSeek-OCR 2 makes one in front of its queries."""


def line(count: int) -> Places:
    """So many tokens in a line."""
    return Places((1, 1, count))


def lines(core: Any, given: Arguments, features: Features) -> list[Places]:
    """So many tokens for each picture or tile (Aria)."""
    return [line(len(rows)) for rows in features]


def lines_of_rows(core: Any, given: Arguments, features: Features) -> list[Places]:
    """The same, where tensors have all tiles of a prompt or of a call (Idefics2)."""
    units = int(core.image_seq_len)
    return [line(units)] * (sum(map(len, features)) // units)


def in_views(core: Any, given: Arguments, features: Features) -> list[Places]:
    """Parts of a picture, behind them the whole, at the end a separator (DeepSeek-OCR 2)."""
    parts, tower = given.get("pixel_values_local"), core.vision_tower
    counts = given.get("num_local_patches")
    if parts is None or counts is None:
        counts = [0] * len(features)
    elif isinstance(counts, Tensor):
        counts = counts.tolist()
    whole = line(_queries(tower, given["pixel_values"]))
    part = None if parts is None else line(_queries(tower, parts))
    found = []
    for count in counts:
        views = [whole] if part is None else [*[part] * count, whole]
        units = sum(view.units for view in views)
        found.append(replace(Places.of_tiles(views, overview=-1), others={units: None}))
    return found


def _queries(tower: Any, pixels: Tensor) -> int:
    """Queries behind the patches of a view: the smaller set as long as it is as large as these."""
    side = tower.sam_encoder.config.patch_size
    patches = math.prod(math.ceil(length // side / _SHRUNK) for length in pixels.shape[-2:])
    small = tower.query_768_resolution.num_embeddings
    return int(small if patches <= small else tower.query_1024_resolution.num_embeddings)
