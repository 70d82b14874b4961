"""Kinds of pictures as most families have them, and towers of which the last states are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tokenprune_adapters.transformers.families import Pictures
from tokenprune_adapters.transformers.family_towers import Followed
from tokenprune_adapters.transformers.picture_places import Frames, Read
from tokenprune_adapters.transformers.tile_runs import Begins

IMAGE_ID = ("image_token_id", "image_token_index")
VIDEO_ID = ("video_token_id", "video_token_index")
"""Settings with the placeholders' ids, see `Pictures.placeholder`."""
LAST = Followed(layers=(), cut=0)
"""The tower's last states, without a class token."""
POOLED = replace(LAST, projector=None)
"""The same of a tower that makes its units by itself."""


def images(
    read: Read,
    *pixels: str,
    tower: Followed | None = None,
    begins: Begins | None = None,
    unfollowed: str = "",
) -> Mapping[str, Pictures]:
    """Pictures for which the core asks `get_image_features`."""
    found = Pictures("get_image_features", IMAGE_ID, ("pixel_values", *pixels), read, tower)
    return {"image": replace(found, begins=begins, unfollowed=unfollowed)}


def videos(
    read: Read,
    method: str = "get_video_features",
    tower: Followed | None = None,
    frames: Frames | None = None,
    placeholder: tuple[str, ...] = VIDEO_ID,
    unfollowed: str = "",
) -> Mapping[str, Pictures]:
    """Clips, for which it asks a method of their own or the same."""
    found = Pictures(method, placeholder, ("pixel_values_videos",), read, tower, frames)
    return {"video": replace(found, unfollowed=unfollowed)}
