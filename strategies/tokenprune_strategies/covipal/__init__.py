"""CoViPAL-style: a small learned module scores visual tokens in the light of the prompt."""

from tokenprune_strategies.covipal.module import ContextScorer, MeanScorer, PruningModule
from tokenprune_strategies.covipal.params import CoViPALParams
from tokenprune_strategies.covipal.strategy import CoViPALStyle

__all__ = ["CoViPALParams", "CoViPALStyle", "ContextScorer", "MeanScorer", "PruningModule"]
