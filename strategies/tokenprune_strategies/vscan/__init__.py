"""VScan (arXiv 2505.22654): what is locally and globally important, the rest merged into it."""

from tokenprune_strategies.vscan.params import VScanParams
from tokenprune_strategies.vscan.strategy import VScan

__all__ = ["VScan", "VScanParams"]
