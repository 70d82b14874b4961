"""PruneVid: merge what a video repeats, then keep what the question looks at."""

from tokenprune_strategies.prunevid.params import PruneVidParams
from tokenprune_strategies.prunevid.strategy import PruneVid

__all__ = ["PruneVid", "PruneVidParams"]
