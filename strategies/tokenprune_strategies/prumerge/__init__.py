"""PruMerge and PruMerge+: outliers of attention, an even grid, and clusters by keys."""

from tokenprune_strategies.prumerge.strategy import PruMerge, PruMergeParams

__all__ = ["PruMerge", "PruMergeParams"]
