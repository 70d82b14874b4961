"""Rows of `family_table` whose towers see pictures in their own size and merge patches inside."""

from __future__ import annotations

from dataclasses import replace

from tokenprune_adapters.transformers import picture_places as places
from tokenprune_adapters.transformers import unit_sides as sides
from tokenprune_adapters.transformers.families import Family, Pictures
from tokenprune_adapters.transformers.family_rows import HEARS
from tokenprune_adapters.transformers.family_towers import in_line, in_rows
from tokenprune_adapters.transformers.minicpm_vision import behind_merger
from tokenprune_adapters.transformers.picture_kinds import LAST, POOLED, images, videos
from tokenprune_adapters.transformers.tile_runs import opened_by_mark

_EARLY = (
    "in the tower, blocks behind its merger of patches, counted from 0: in front of it squares of "
    "patches have to be whole"
)
_CHUNKS_APART = (
    "a clip is several to the model, of as many frames as become a token: one call needs them "
    "equally long in the tower"
)
_FRAMES_APART = "frames of a clip are pictures of their own: the model isn't told which are whose"


def _sliced(kind: str, end: str) -> Pictures:
    """Overviews in front of their slices, merged in the tower and behind it (MiniCPM-V)."""
    tower = replace(POOLED, side=sides.merged_behind, blocks=behind_merger)
    return Pictures(
        f"get_{kind}_features",
        (f"{kind}_token_id",),
        (f"pixel_values{end}",),
        places.targeted(f"target_sizes{end}"),
        tower,
        begins=opened_by_mark,
        overview=0,
    )


MINICPM = Family(
    {"image": _sliced("image", ""), "video": _sliced("video", "_videos")},
    towers=("minicpm-vision",),
    behind=False,
    notes=(_EARLY, _FRAMES_APART),
)
"""MiniCPM-V 4.6 and MiniCPM-OCR."""
MINICPM_CANVAS = replace(MINICPM, apart=True)
"""MiniCPM-V 4.7, whose positions are those of slices on their picture."""

KIMI = Family(
    {
        **images(places.averaged_in_time("image_grid_thw"), tower=POOLED),
        **videos(places.averaged_in_time("video_grid_thw"), tower=POOLED),
    },
    towers=("kimi-vision",),
    behind=False,
    notes=(_CHUNKS_APART,),
)
"""Kimi K2.5 and K2.6."""

_CHUNKS = "a clip is several to the model: chunks of a few frames, apart in the tower"
_BLOCKS = (
    "sparse layers choose blocks of keys among those that are left, padding included; their "
    "attention isn't read"
)

_BEHIND = replace(LAST, shown=in_rows)
"""A tower behind which the projector makes a token of every square of patches."""

MINIMAX = Family(
    {
        **images(places.packed("image_grid_thw"), tower=_BEHIND),
        **videos(places.packed("video_grid_thw"), tower=_BEHIND),
    },
    towers=("minimax-vision",),
    behind=False,
    counts=True,
    notes=(_CHUNKS, _BLOCKS),
)
"""MiniMax M3."""

COSMOS3_EDGE = Family(
    {
        kind: replace(one, tower=replace(_BEHIND, module="visual", projector="projector"))
        for kind, one in MINIMAX.pictures.items()
    },
    apart=True,
    towers=("cosmos3-vision",),
    behind=False,
)
"""Cosmos 3 Edge."""

MUSE = Family(
    {
        **images(places.packed("image_grid_thw", "merge_size"), tower=POOLED),
        **videos(places.packed("video_grid_thw", "merge_size"), tower=POOLED),
    },
    towers=("muse-vision",),
    behind=False,
    renumbers=False,
)
"""Muse Glimmer."""
MUSE_HEARING = replace(MUSE, notes=(HEARS,))
"""Muse Spark."""

LIGHTON_OCR = Family(
    images(
        places.sized,
        tower=replace(
            LAST,
            module="vision_encoder",
            side=sides.merged,
            projector="vision_projection",
            shown=in_line,
        ),
    ),
    towers=("pixtral-vision",),
    behind=False,
)
"""LightOnOCR: Mistral 3's way of seeing, under names of its own."""

HUNYUAN = Family(
    images(places.rowed("image_grid_thw"), tower=POOLED),
    apart=True,
    towers=("hunyuan-vision",),
    behind=False,
)
"""HunYuan-VL and HunyuanOCR: squares of patches in rows that end with a newline."""
