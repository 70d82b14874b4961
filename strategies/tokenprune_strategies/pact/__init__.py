"""PACT: unimportant tokens leave without an attention map, the others are clustered."""

from tokenprune_strategies.pact.strategy import PACT, PACTParams

__all__ = ["PACT", "PACTParams"]
