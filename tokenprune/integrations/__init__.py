"""The small stable surface for serving engines and harnesses that keep their own model code."""

from tokenprune.integrations.packed_towers import PrunedPackedEncoder, packed_encoder
from tokenprune.integrations.static import Selected, count, select
from tokenprune.integrations.tiled_towers import PrunedTiledEncoder, count_tiled, tiled_encoder
from tokenprune.integrations.towers import PrunedEncoder, encoder

__all__ = [
    "PrunedEncoder",
    "PrunedPackedEncoder",
    "PrunedTiledEncoder",
    "Selected",
    "count",
    "count_tiled",
    "encoder",
    "packed_encoder",
    "select",
    "tiled_encoder",
]
