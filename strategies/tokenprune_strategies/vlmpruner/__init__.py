"""VLM-Pruner: from a few seeds outwards, what is least like the tokens kept so far."""

from tokenprune_strategies.vlmpruner.strategy import VLMPruner, VLMPrunerParams

__all__ = ["VLMPruner", "VLMPrunerParams"]
