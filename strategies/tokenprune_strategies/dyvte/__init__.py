"""DyVTE: small gates in the LLM decide at which layer all visual tokens leave."""

from tokenprune_strategies.dyvte.gates import ExitGates, TextState, text_state
from tokenprune_strategies.dyvte.params import DyVTEParams
from tokenprune_strategies.dyvte.strategy import DyVTE

__all__ = ["DyVTE", "DyVTEParams", "ExitGates", "TextState", "text_state"]
