"""FlashVID: distant attended tokens of every frame, and trees of what stays alike over time."""

from tokenprune_strategies.flashvid.strategy import FlashVID, FlashVIDParams

__all__ = ["FlashVID", "FlashVIDParams"]
