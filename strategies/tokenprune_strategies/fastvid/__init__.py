"""FastVID: segments of a video, salient tokens of every frame, clusters around anchor frames."""

from tokenprune_strategies.fastvid.strategy import FastVID, FastVIDParams

__all__ = ["FastVID", "FastVIDParams"]
