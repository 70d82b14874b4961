"""SparseVLM: text tokens rate visual ones; what is dropped is recycled (1.0), or not (2.0)."""

from tokenprune_strategies.sparsevlm.second import SparseVLM2, SparseVLM2Params
from tokenprune_strategies.sparsevlm.strategy import SparseVLM, SparseVLMParams

__all__ = ["SparseVLM", "SparseVLM2", "SparseVLM2Params", "SparseVLMParams"]
