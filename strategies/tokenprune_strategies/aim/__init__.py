"""AIM: likeness merges before the LLM, a random walk over attention prunes inside it."""

from tokenprune_strategies.aim.strategy import AIM

__all__ = ["AIM"]
