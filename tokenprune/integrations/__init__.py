"""The small stable surface for serving engines and harnesses that keep their own model code."""

from tokenprune.integrations.static import Selected, count, select
from tokenprune.integrations.towers import PrunedEncoder, encoder

__all__ = ["PrunedEncoder", "Selected", "count", "encoder", "select"]
