"""Every case, by name."""

from __future__ import annotations

from tests.families.case import Case
from tests.families.models import (
    cohere,
    compass,
    ernie,
    exaone,
    fast_vlm,
    gemma,
    gemma3n,
    gemma4,
    glm,
    hunyuan,
    hyperclovax,
    kimi,
    lfm2,
    llama4,
    llava,
    minicpm,
    minimax,
    mistral3,
    molmo2,
    omni,
    ovis2,
    paddleocr,
    perception,
    qwen,
    shuffled,
    tiled,
    video_llama3,
    video_llava,
)

CASES: dict[str, Case] = {
    case.name: case
    for module in (
        llava,
        tiled,
        video_llava,
        qwen,
        exaone,
        glm,
        omni,
        shuffled,
        cohere,
        llama4,
        gemma,
        gemma3n,
        gemma4,
        mistral3,
        molmo2,
        paddleocr,
        ernie,
        perception,
        lfm2,
        video_llama3,
        ovis2,
        minicpm,
        kimi,
        minimax,
        fast_vlm,
        hyperclovax,
        compass,
        hunyuan,
    )
    for case in module.CASES
}
