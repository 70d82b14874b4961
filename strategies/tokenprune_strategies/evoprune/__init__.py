"""EvoPrune: merging inside the vision encoder, guided by similarity, diversity and attention."""

from tokenprune_strategies.evoprune.params import EvoPruneParams
from tokenprune_strategies.evoprune.strategy import EvoPrune

__all__ = ["EvoPrune", "EvoPruneParams"]
