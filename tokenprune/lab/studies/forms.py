"""What a record holds, so that one of another form is named and takes no report along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenprune.errors import PlanError
from tokenprune.plan import Plan

#: Patches of a picture that is drawn, along each side (ours).
SIDE = 4096

Seconds = Annotated[float, Field(gt=0)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _Named(_Form):
    name: str | None = None


class _Settings(_Form):
    seed: Annotated[int, Field(ge=0)] = 0


class _Identity(_Form):
    name: str
    plan: dict[str, Any]
    task: _Named
    model: _Named
    settings: _Settings
    environment: dict[str, Any]
    weights: str
    data: str
    grid: dict[str, Any] = Field(default_factory=dict)


class _Sample(_Form):
    number: int = 0
    group: int
    kind: str
    answer: str
    right: bool
    scores: dict[str, float]


class _LeftOut(_Form):
    number: int
    reason: str


class _Frame(_Form):
    picture: str
    grid: Annotated[list[Annotated[int, Field(ge=1, le=SIDE)]], Field(min_length=2, max_length=2)]
    owner: list[int]


class _Shown(_Form):
    question: str
    frames: list[_Frame]


class _Done(_Form):
    samples: Annotated[list[_Sample], Field(min_length=1)]
    left_out: list[_LeftOut] = Field(default_factory=list)
    tokens: dict[str, float]
    seconds: dict[str, float]
    wall: Annotated[list[Seconds], Field(min_length=1)]
    dense_wall: Annotated[list[Seconds], Field(min_length=1)]
    flops: float
    dense_flops: float
    flops_samples: int = 0
    peak_bytes: int
    failures: list[str]
    shown: list[_Shown] = Field(default_factory=list)


class _Failed(_Form):
    reason: str = ""


def wrong_form(identity: Any, status: Any, result: Any) -> str:
    """What is wrong with the parts of a record; empty if nothing is.

    Args:
        identity: what the cell is.
        status: `done` or `failed`.
        result: what was measured.
    """
    forms: Mapping[str, type[_Form]] = {"done": _Done, "failed": _Failed}
    if status not in forms:
        return "its status is none"
    try:
        _Identity.model_validate(identity)
        forms[status].model_validate(result)
        Plan.model_validate(identity["plan"])
    except (ValidationError, PlanError) as error:
        if not isinstance(error, ValidationError):
            return str(error)[:200]
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:200]
    if status == "done" and len(result["wall"]) != len(result["dense_wall"]):
        return "wall: as many batches as dense_wall are needed"
    return ""
