"""The small stable surface for serving engines and harnesses that keep their own model code."""

from tokenprune.integrations.packed_towers import PrunedPackedEncoder, packed_encoder
from tokenprune.integrations.static import Selected, count, select
from tokenprune.integrations.towers import PrunedEncoder, encoder

__all__ = [
    "PrunedEncoder",
    "PrunedPackedEncoder",
    "Selected",
    "count",
    "encoder",
    "packed_encoder",
    "select",
]
