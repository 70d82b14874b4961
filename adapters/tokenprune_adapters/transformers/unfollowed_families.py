"""Rows of `family_table` through whose towers no tokens are followed, or that have none."""

from __future__ import annotations

from tokenprune_adapters.transformers import llm_names as names
from tokenprune_adapters.transformers import picture_places as places
from tokenprune_adapters.transformers import query_places as queries
from tokenprune_adapters.transformers.families import Family, Pictures
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


def _projected(kind: str, end: str) -> Pictures:
    """Squares of pixels that the processor cuts out, of which each is a unit (Gemma 4 unified)."""
    return Pictures(
        f"get_{kind}_features",
        (f"{kind}_token_id",),
        (f"{names.PICTURES}{end}",),
        places.placed_whole,
        unfollowed=_PROJECTED,
    )


GEMMA4_UNIFIED = Family(
    {"image": _projected("image", ""), "video": _projected("video", "_videos")},
    masks=True,
    renumbers=False,
    # layers that share keys would compute the last tokens only
    whole={"logits_to_keep": 0},
    notes=("sound stays",),
)
"""Gemma 4 12B: an LLM that is shown pixels and heard waves as they are."""

FAST_VLM = Family(
    {
        "image": Pictures(
            "get_image_features",
            ("image_token_id", "image_token_index"),
            (names.PICTURES,),
            places.square,
            unfollowed=CONVOLUTIONAL,
        )
    },
    joins=True,
)
"""FastVLM, whose tower attends behind its convolutions only."""

GOT_OCR2 = Family(
    {
        "image": Pictures(
            "get_image_features",
            ("image_token_id", "image_token_index"),
            (names.PICTURES,),
            places.square,
            begins=without_gap,
            unfollowed="convolutions behind its blocks read every place of a picture",
        )
    },
    joins=True,
    notes=("pages of a document count as one picture: the model isn't told which tiles are whose",),
)
"""GOT-OCR 2: a tower of SAM, whose patches are convolved four times four to one."""

GRANITE_DOCLING = Family(
    {
        "image": Pictures(
            "get_image_features",
            ("image_token_id",),
            (names.PICTURES,),
            places.rows_of_routed_tiles,
            begins=opened_by_mark,
            unfollowed="a connector inside of it reads states of several depths",
        )
    },
    language="text_model",
)
"""Granite Docling: Idefics3's tiles, with features of several depths for the LLM (DeepStack)."""

IDEFICS2 = Family(
    {
        "image": Pictures(
            "get_image_features",
            ("image_token_id",),
            (names.PICTURES,),
            queries.lines_of_rows,
            begins=in_fives,
            unfollowed=_QUERIED,
        )
    },
    language="text_model",
    notes=(_FIVES,),
)
"""Idefics2: a resampler behind the tower, whose latents read each other and all patches."""

ARIA = Family(
    {
        "image": Pictures(
            "get_image_features",
            ("image_token_id", "image_token_index"),
            (names.PICTURES,),
            queries.lines,
            begins=without_gap,
            unfollowed=_QUERIED,
        )
    },
    notes=(_TOUCHING,),
)
"""Aria: queries that read all patches, of pictures or of their crops, and experts in the LLM."""

DEEPSEEK_OCR2 = Family(
    {
        "image": Pictures(
            "get_image_features",
            ("image_token_id",),
            (names.PICTURES,),
            queries.in_views,
            unfollowed=_QUERIED,
        )
    },
)
"""DeepSeek-OCR 2: queries that see one another and all patches in a small LLM behind a tower."""


def _convolved(kind: str, end: str) -> Pictures:
    """Squares of patches, which the projector makes a token of (LFM3-VL)."""
    return Pictures(
        f"get_{kind}_features",
        (f"{kind}_token_id",),
        (f"{names.PICTURES}{end}",),
        places.packed(f"{kind}_grid_thw"),
        unfollowed=_BETWEEN,
    )


LFM3_VL = Family(
    {"image": _convolved("image", ""), "video": _convolved("video", "_videos")}, renumbers=False
)
"""LFM3-VL, whose LLM has windows and convolutions, too."""

STEP3P7 = Family(
    {
        "image": Pictures(
            "get_image_features",
            ("image_token_id",),
            (names.PICTURES,),
            places.crops_in_front,
            unfollowed=_DOWNSAMPLED,
        )
    },
    renumbers=False,
)
"""Step 3.7: crops of a picture in front of the whole, in one call of each kind of the tower."""
