"""HoliTom: windows of a video whose static places are merged, and tokens by attention."""

from tokenprune_strategies.holitom.params import HoliTomParams
from tokenprune_strategies.holitom.strategy import HoliTom

__all__ = ["HoliTom", "HoliTomParams"]
