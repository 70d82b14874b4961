"""What a stage leaves, in the forms that a plan may write it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    Tag,
    field_serializer,
)

from tokenprune.errors.names import nearest


class Frozen(BaseModel):
    """A part of a plan: no unknown keys, never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Average(Frozen):
    """A budget of visual tokens per image, averaged over the layers of the LLM."""

    average: Annotated[FiniteFloat, Field(strict=True, gt=0)]
    """Mean number of visual tokens per image that a layer of the LLM sees. The solver rounds down,
    so the mean never exceeds it."""

    @field_serializer("average")
    def _plain(self, value: float) -> float | int:
        return int(value) if value.is_integer() else value

    def __str__(self) -> str:
        """As a plan writes it."""
        return f"{{average: {self.average:g}}}"


class PerTile(Frozen):
    """A budget of visual tokens that grows with the tiles in which the encoder sees an image."""

    per_tile: Annotated[int, Field(strict=True, ge=1)]
    """Tokens for every tile, overview included; an image that the encoder sees whole, and a frame
    of a video, is one tile. Behind the encoder a strategy may spend them anywhere in the image, and
    an image that has fewer keeps all."""

    def __str__(self) -> str:
        """As a plan writes it."""
        return f"{{per_tile: {self.per_tile}}}"


class Total(Frozen):
    """A budget of visual tokens for all images of a prompt together."""

    total: Annotated[int, Field(strict=True, ge=1)]
    """Tokens that a prompt keeps at most; a prompt that has fewer keeps all."""

    def __str__(self) -> str:
        """As a plan writes it."""
        return f"{{total: {self.total}}}"


FORMS: Mapping[str, type[Frozen]] = {"average": Average, "per_tile": PerTile, "total": Total}
"""Budgets that are written as a mapping, by its only key."""
_MAPPING = "{} as a mapping"
"""Tags of these forms, which no key of a plan is named like: errors name both in one path."""


def _tag(value: Any) -> str | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return "tokens"
    if isinstance(value, float):
        return "ratio"
    if isinstance(value, Mapping):
        # a misspelt key is an error of the form that it is nearest to
        found = {nearest(str(key), FORMS) for key in value} - {None}
        return _MAPPING.format(found.pop()) if len(found) == 1 else None
    forms = (name for name, form in FORMS.items() if isinstance(value, form))
    return next(map(_MAPPING.format, forms), None)


Keep = Annotated[
    Annotated[int, Field(ge=1), Tag("tokens")]
    | Annotated[FiniteFloat, Field(gt=0, le=1), Tag("ratio")]
    | Annotated[Average, Tag(_MAPPING.format("average"))]
    | Annotated[PerTile, Tag(_MAPPING.format("per_tile"))]
    | Annotated[Total, Tag(_MAPPING.format("total"))],
    Discriminator(
        _tag,
        custom_error_type="keep",
        custom_error_message="write tokens (128), a ratio (0.25), {per_tile: 64}, {total: 640} or "
        "{average: 192}",
    ),
]

KeepText = Annotated[
    Annotated[int, Field(ge=1), Tag("tokens")]
    | Annotated[FiniteFloat, Field(gt=0, le=1), Tag("ratio")],
    Discriminator(
        _tag,
        custom_error_type="keep_text",
        custom_error_message="write tokens (16) or a ratio (0.5)",
    ),
]

Budgeted = int | float | Average | PerTile | Total
"""A budget as it is written."""


def scaled(
    keep: Budgeted | None, images: int = 1, tiles: int = 1, share: int | None = None
) -> int | float | Average | None:
    """A budget for something with several images or tiles; a ratio stays one.

    Args:
        keep: as the plan has it.
        images: images, or frames.
        tiles: tiles of all of them.
        share: of a total, what falls to them; None where they are all that the prompt has.
    """
    if isinstance(keep, Average):
        return keep.model_copy(update={"average": keep.average * images})
    if isinstance(keep, PerTile):
        return keep.per_tile * tiles
    if isinstance(keep, Total):
        return keep.total if share is None else share
    return keep * images if isinstance(keep, int) else keep
