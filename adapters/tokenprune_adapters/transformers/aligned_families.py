"""Rows of `family_table` of which an aligner makes a token of every patch."""

from __future__ import annotations

from dataclasses import replace

from tokenprune_adapters.transformers import picture_places as places
from tokenprune_adapters.transformers.families import Family
from tokenprune_adapters.transformers.picture_kinds import LAST, images

_FINER = (
    "in the tower, tokens of the coarser of two; what the finer one, which sees all of a picture, "
    "has at a token's place leaves with it"
)
_TOWER = replace(LAST, module="vision_model", projector="aligner")

_DRAWS = "pictures that it draws itself are those of the plain model"
JANUS = Family(
    images(places.square, tower=_TOWER),
    towers=("janus-vision",),
    behind=False,
    joins=True,
    notes=(_DRAWS,),
)
"""Janus and Janus-Pro, where they understand pictures."""

# the aligner joins a patch and the finer tower's features of its place, so it runs on all
DEEPSEEK_VL_HYBRID = replace(
    JANUS,
    pictures=images(places.square, tower=replace(_TOWER, projector=None)),
    towers=("siglip",),
    notes=(_FINER,),
)
"""DeepSeek-VL with a second tower, which sees pictures in finer patches."""
