"""Processors of Janus and of DeepSeek-VL with two towers."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case
from tests.families.models import janus
from tests.families.models.common import END, IMAGE, START
from tests.families.processors.common import VISION, Recipe, images, made, square


def _janus(case: Case, tokenizer: Any) -> Any:
    shown = images("JanusImageProcessor", size=square(janus.SIDE))
    return made(
        "JanusProcessor",
        image_processor=shown,
        tokenizer=tokenizer,
        num_image_tokens=janus.UNITS,
    )


def _deepseek_vl_hybrid(case: Case, tokenizer: Any) -> Any:
    sizes = {"size": square(janus.SIDE), "high_res_size": square(janus.HIGH)}
    return made(
        "DeepseekVLHybridProcessor",
        image_processor=images("DeepseekVLHybridImageProcessor", **sizes),
        tokenizer=tokenizer,
        num_image_tokens=janus.UNITS,
    )


RECIPES: dict[str, Recipe] = {
    "janus": Recipe(
        _janus,
        {IMAGE: "<image_placeholder>", START: "<begin_of_image>", END: "<end_of_image>"},
        "<image_placeholder>",
        named={"image_token": IMAGE, "boi_token": START, "eoi_token": END},
        needs=VISION,
    ),
    "deepseek_vl_hybrid": Recipe(
        _deepseek_vl_hybrid,
        {IMAGE: "<image_placeholder>"},
        "<image_placeholder>",
        named={"image_token": IMAGE},
        needs=VISION,
    ),
}
