"""VisionZip: dominant tokens by attention, the others merged into a few contextual ones."""

from tokenprune_strategies.visionzip.strategy import VisionZip, VisionZipParams

__all__ = ["VisionZip", "VisionZipParams"]
