"""How every family's own processor is made, with tiny pictures and the ids of the tiny models."""

from __future__ import annotations

from tests.families.processors import (
    cohere,
    cosmos3,
    ernie,
    gemma,
    glm,
    granite,
    janus,
    kimi,
    lfm2,
    llava,
    minicpm,
    minimax,
    molmo2,
    muse,
    omni,
    others,
    ovis2,
    queried,
    qwen,
    shuffled,
    step3p7,
    video_llama3,
)
from tests.families.processors.common import Recipe

RECIPES: dict[str, Recipe] = {
    **llava.RECIPES,
    **qwen.RECIPES,
    **glm.RECIPES,
    **omni.RECIPES,
    **shuffled.RECIPES,
    **cohere.RECIPES,
    **cosmos3.RECIPES,
    **gemma.RECIPES,
    **others.RECIPES,
    **ernie.RECIPES,
    **lfm2.RECIPES,
    **molmo2.RECIPES,
    **video_llama3.RECIPES,
    **ovis2.RECIPES,
    **minicpm.RECIPES,
    **kimi.RECIPES,
    **minimax.RECIPES,
    **queried.RECIPES,
    **janus.RECIPES,
    **granite.RECIPES,
    **muse.RECIPES,
    **step3p7.RECIPES,
}
