"""What lmms-eval finds in its entry-point group `lmms_eval.models`.

lmms-eval drops the models of all other plugins if one entry point raises, and loads all of them
whenever it lists its models. So this module imports the standard library only, and never raises.
"""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger(__name__)

CLASSES = "tokenprune_adapters.lmms_eval.models"
SIMPLE = "tokenprune_adapters.lmms_eval.simple"

#: Model names and their classes: those of families that lmms-eval has a model of its own for, under
#: its name for them, and one for every family that has an adapter.
MODELS = {
    "tokenprune_llava_hf": "LlavaHf",
    "tokenprune_llava_onevision": "LlavaOnevision",
    "tokenprune_qwen2_5_vl": "Qwen2_5_Vl",
    "tokenprune_qwen3_vl": "Qwen3Vl",
    "tokenprune_internvl_hf": "InternVlHf",
    "tokenprune_hf": "HfChat",
}


def manifests() -> list[Any]:
    """A `ModelManifest` a model; none where this lmms-eval knows no such thing."""
    try:
        from lmms_eval.models.registry_v2 import ModelManifest

        return [
            ModelManifest(
                model_id=name,
                chat_class_path=f"{CLASSES}.{kind}",
                simple_class_path=f"{SIMPLE}.{kind}Simple",
            )
            for name, kind in MODELS.items()
        ]
    except Exception as error:
        logger.warning(
            "tokenprune's models are not registered, this lmms-eval can't be used: %s", error
        )
        return []
