"""Signals: what a strategy may ask for, and what each is computed from."""

from tokenprune.interface.signals.signal import WHOLE, Signal, read
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
    PromptText,
    Question,
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
    "PromptText",
    "Question",
    "Signal",
    "View",
    "read",
]
