"""QueCC: the question picks what a strided convolution and local attention keep of the image."""

from tokenprune_strategies.quecc.compressor import QueryCompressor
from tokenprune_strategies.quecc.params import QueCCParams
from tokenprune_strategies.quecc.strategy import QueCC

__all__ = ["QueCC", "QueCCParams", "QueryCompressor"]
