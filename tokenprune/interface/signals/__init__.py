"""Signals: what a strategy may ask for, and what each is computed from."""

from tokenprune.interface.signals.encoder import MASKED, PADDED, UNPAIRED
from tokenprune.interface.signals.llm_views import (
    LLM_VIEWS,
    LayerAhead,
    LayerAttention,
    LayerBefore,
    LayerInput,
    LayerValues,
    OutputNorm,
    PromptText,
    Rotation,
)
from tokenprune.interface.signals.reading import WHOLE, both_means, read, sums_attention
from tokenprune.interface.signals.signal import Signal
from tokenprune.interface.signals.text_tower import TowerSpace
from tokenprune.interface.signals.views import (
    BLOCK_VIEWS,
    CLASS_VIEWS,
    BlockAttention,
    BlockBefore,
    BlockOutput,
    ClassAttention,
    ClassFeature,
    ClassOutput,
    Companions,
    PromptEmbeddings,
    Question,
    View,
)

__all__ = [
    "BLOCK_VIEWS",
    "CLASS_VIEWS",
    "LLM_VIEWS",
    "MASKED",
    "PADDED",
    "UNPAIRED",
    "WHOLE",
    "BlockAttention",
    "BlockBefore",
    "BlockOutput",
    "ClassAttention",
    "ClassFeature",
    "ClassOutput",
    "Companions",
    "LayerAhead",
    "LayerAttention",
    "LayerBefore",
    "LayerInput",
    "LayerValues",
    "OutputNorm",
    "PromptEmbeddings",
    "PromptText",
    "Question",
    "Rotation",
    "Signal",
    "TowerSpace",
    "View",
    "both_means",
    "read",
    "sums_attention",
]
