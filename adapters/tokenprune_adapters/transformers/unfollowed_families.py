"""Rows of `family_table` through whose towers no tokens are followed, or that have none."""

from __future__ import annotations

from tokenprune_adapters.transformers import llm_names as names
from tokenprune_adapters.transformers import picture_places as places
from tokenprune_adapters.transformers.families import Family, Pictures

CONVOLUTIONAL = "it is convolutional, and reads every place of a picture"
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
