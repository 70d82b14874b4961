"""DART: a few pivots, and the tokens that duplicate them least."""

from tokenprune_strategies.dart.strategy import DART, DARTParams

__all__ = ["DART", "DARTParams"]
