"""Every case, by name."""

from __future__ import annotations

from tests.families.case import Case
from tests.families.models import (
    gemma,
    gemma4,
    glm,
    llava,
    mistral3,
    omni,
    paddleocr,
    perception,
    qwen,
    shuffled,
    tiled,
    video_llava,
)

CASES: dict[str, Case] = {
    case.name: case
    for module in (
        llava,
        tiled,
        video_llava,
        qwen,
        glm,
        omni,
        shuffled,
        gemma,
        gemma4,
        mistral3,
        paddleocr,
        perception,
    )
    for case in module.CASES
}
