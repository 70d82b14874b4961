"""PruneSID: groups by principal directions over the tokens, and of each what repeats least."""

from tokenprune_strategies.prunesid.strategy import PruneSID, PruneSIDParams

__all__ = ["PruneSID", "PruneSIDParams"]
