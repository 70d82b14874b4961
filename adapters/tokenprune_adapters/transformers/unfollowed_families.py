"""Rows of `family_table` through whose towers no tokens are followed, or that have none."""

from __future__ import annotations

from tokenprune_adapters.transformers import picture_places as places
from tokenprune_adapters.transformers import query_places as queries
from tokenprune_adapters.transformers.families import Family
from tokenprune_adapters.transformers.family_rows import HEARS
from tokenprune_adapters.transformers.picture_kinds import images, videos
from tokenprune_adapters.transformers.tile_runs import in_fives, opened_by_mark, without_gap

CONVOLUTIONAL = "it is convolutional, and reads every place of a picture"
_QUERIED = "learned queries read all of a picture, and every token is one of them"
_FIVES = (
    "five pictures with nothing between count as one, which a processor cuts into four and shows "
    "whole"
)
_TOUCHING = "pictures with nothing between count as one: the model isn't told which crops are whose"
_BETWEEN = "its attention stands between convolutions, which read every place of a picture"
_DOWNSAMPLED = "convolutions behind its blocks make every token of squares of patches that overlap"
_PROJECTED = "there is none, and every token is made of its own pixels"

GEMMA4_UNIFIED = Family(
    {
        **images(places.placed_whole, unfollowed=_PROJECTED),
        **videos(places.placed_whole, unfollowed=_PROJECTED),
    },
    masks=True,
    renumbers=False,
    # layers that share keys would compute the last tokens only
    whole={"logits_to_keep": 0},
    notes=(HEARS,),
)
"""Gemma 4 12B: an LLM that is shown pixels and heard waves as they are."""

FAST_VLM = Family(
    images(places.square, unfollowed=CONVOLUTIONAL),
    joins=True,
)
"""FastVLM, whose tower attends behind its convolutions only."""

GOT_OCR2 = Family(
    images(
        places.square,
        begins=without_gap,
        unfollowed="convolutions behind its blocks read every place of a picture",
    ),
    joins=True,
    notes=("pages of a document count as one picture: the model isn't told which tiles are whose",),
)
"""GOT-OCR 2: a tower of SAM, whose patches are convolved four times four to one."""

GRANITE_DOCLING = Family(
    images(
        places.rows_of_tiles,
        begins=opened_by_mark,
        unfollowed="a connector inside of it reads states of several depths",
    ),
    language="text_model",
)
"""Granite Docling: Idefics3's tiles, with features of several depths for the LLM (DeepStack)."""

IDEFICS2 = Family(
    images(queries.lines_of_rows, begins=in_fives, unfollowed=_QUERIED),
    language="text_model",
    notes=(_FIVES,),
)
"""Idefics2: a resampler behind the tower, whose latents read each other and all patches."""

ARIA = Family(
    images(queries.lines, begins=without_gap, unfollowed=_QUERIED),
    notes=(_TOUCHING,),
)
"""Aria: queries that read all patches, of pictures or of their crops, and experts in the LLM."""

DEEPSEEK_OCR2 = Family(
    images(queries.in_views, unfollowed=_QUERIED),
)
"""DeepSeek-OCR 2: queries that see one another and all patches in a small LLM behind a tower."""

LFM3_VL = Family(
    {
        **images(places.packed("image_grid_thw"), unfollowed=_BETWEEN),
        **videos(places.packed("video_grid_thw"), unfollowed=_BETWEEN),
    },
    renumbers=False,
)
"""LFM3-VL, whose LLM has windows and convolutions, too."""

STEP3P7 = Family(
    images(places.crops_in_front, unfollowed=_DOWNSAMPLED),
    renumbers=False,
)
"""Step 3.7: crops of a picture in front of the whole, in one call of each kind of the tower."""
