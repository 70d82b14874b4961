"""The small stable surface for serving engines and harnesses that keep their own model code."""

from tokenprune.integrations.static import Selected, count, select

__all__ = ["Selected", "count", "select"]
