"""VisToG: learned semantic tokens that group the patches."""

from tokenprune_strategies.vistog.grouping import Grouping, SemanticGrouping
from tokenprune_strategies.vistog.params import VisToGParams
from tokenprune_strategies.vistog.strategy import VisToG

__all__ = ["Grouping", "SemanticGrouping", "VisToG", "VisToGParams"]
