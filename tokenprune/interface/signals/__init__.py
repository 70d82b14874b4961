"""Signals: what a strategy may ask for, and what each is computed from."""

from tokenprune.interface.signals.signal import WHOLE, Signal, read
from tokenprune.interface.signals.text_tower import TowerSpace
from tokenprune.interface.signals.views import (
    BLOCK_VIEWS,
    CLASS_VIEWS,
    LLM_VIEWS,
    BlockAttention,
    BlockBefore,
    BlockOutput,
    ClassAttention,
    ClassOutput,
    Companions,
    LayerAhead,
    LayerAttention,
    LayerBefore,
    LayerInput,
    OutputNorm,
    PromptText,
    Question,
    Rotation,
    View,
)

__all__ = [
    "BLOCK_VIEWS",
    "CLASS_VIEWS",
    "LLM_VIEWS",
    "WHOLE",
    "BlockAttention",
    "BlockBefore",
    "BlockOutput",
    "ClassAttention",
    "ClassOutput",
    "Companions",
    "LayerAhead",
    "LayerAttention",
    "LayerBefore",
    "LayerInput",
    "OutputNorm",
    "PromptText",
    "Question",
    "Rotation",
    "Signal",
    "TowerSpace",
    "View",
    "read",
]
