"""The parameters of `cls_inflection`; the paper's own values are unknown, so all are ours."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, FiniteFloat, NonNegativeInt, PositiveInt, Tag

from tokenprune.interface.strategy import StrategyParams

Knee = Literal["chord", "mass", "max_drop", "otsu", "iqr", "lof"]


def _kind(value: object) -> str | None:
    if isinstance(value, bool):
        return None
    return {int: "tokens", float: "share"}.get(type(value))


Bound = Annotated[
    Annotated[int, Field(ge=1), Tag("tokens")]
    | Annotated[FiniteFloat, Field(gt=0, le=1), Tag("share")],
    Discriminator(
        _kind,
        custom_error_type="bound",
        custom_error_message="write tokens (16) or a share (0.5)",
    ),
]


class ClsInflectionParams(StrategyParams):
    """Parameters of `cls_inflection`."""

    similarity: Literal["attention", "cosine", "received", "pooled"] = Field(
        default="attention",
        description="`pre_llm`: the class token's attention; its cosine with each patch, scaled "
        "to 0..1 image by image; for encoders without a class token, the attention that a patch "
        "receives from all patches, or its cosine with their mean, scaled alike.",
    )
    knee: Knee = Field(
        default="chord",
        description="Where the sorted curve is cut: farthest below its chord; at its mean; at its "
        "steepest fall; between two classes (Otsu); or behind its outliers, by quartiles or by "
        "the local outlier factor.",
    )
    window: PositiveInt = Field(
        default=5, description="Values that `chord` and `max_drop` average the curve over."
    )
    k_min: Bound = Field(
        default=16,
        description="Least number of visual tokens that is kept, per image or frame, or a share.",
    )
    k_max: Bound = Field(
        default=0.5,
        description="Largest number of visual tokens that is kept, or a share; beats `k_min`, and "
        "the plan's `keep` beats both.",
    )
    last_text: NonNegativeInt = Field(
        default=8, description="`keep_text`: tokens at the prompt's end that are never dropped."
    )
    min_text: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="`keep_text`: least share of the question's prunable tokens that is kept.",
    )


OURS: dict[str, str] = {
    "similarity": "the paper speaks of similarity to the class token and its form is unknown; the "
    "authors' sister method reads this attention row",
    "knee": "the paper's rule is unknown; of those tried on a synthetic curve this comes nearest "
    "to the 22 % that it reports",
    "window": "unknown; sorted curves have small steps",
    "k_min": "unknown; outliers could leave a handful of tokens",
    "k_max": "unknown",
    "last_text": "unknown; templates and the last words steer the answer",
    "min_text": "unknown",
}
