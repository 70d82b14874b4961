"""CLS-similarity inflection points: every image sets its own budget."""

from tokenprune_strategies.cls_inflection.params import ClsInflectionParams
from tokenprune_strategies.cls_inflection.strategy import ClsInflection

__all__ = ["ClsInflection", "ClsInflectionParams"]
