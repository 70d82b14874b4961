"""The colours of merged tokens, alike in pictures and on pages."""

from __future__ import annotations

import colorsys

#: How strongly a merged group is tinted, from 0 to 1.
TINT = 0.38


def colour(place: int) -> tuple[int, int, int]:
    """A colour for the survivor that holds a patch's place: the same in every panel.

    Neighbours in number get hues far apart.
    """
    hue = (place * 0.618034 + 0.13) % 1.0
    value = (1.0, 0.86, 0.94)[place % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.62, 0.85, 0.5)[place % 3], value)
    return round(255 * red), round(255 * green), round(255 * blue)
