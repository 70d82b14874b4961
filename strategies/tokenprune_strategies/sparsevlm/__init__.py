"""SparseVLM: text tokens rate visual ones, and what is dropped is recycled."""

from tokenprune_strategies.sparsevlm.strategy import SparseVLM, SparseVLMParams

__all__ = ["SparseVLM", "SparseVLMParams"]
