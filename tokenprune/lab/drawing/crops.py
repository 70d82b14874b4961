"""Which part of a picture a model sees, found out by showing it a picture of coordinates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from tokenprune.lab.drawing.panels import INK, PAPER, Panel

#: Parts of a side by which a picture may be cut without a word: what 8 bits can't tell (ours).
SLACK = 0.015

Box = tuple[float, float, float, float]


def seen_part(size: tuple[int, int], see: Callable[[Image.Image], Image.Image]) -> Box | None:
    """The part of pictures of a size that reaches the model, as shares of their sides.

    The red of the picture shown grows from left to right and its green from top to bottom, so what
    comes back says where it was. Its blue is full, unlike a border that a processor adds.

    Args:
        size: width and height.
        see: a picture -> the same as the model sees it.

    Returns:
        Left, top, right and bottom; None if all of it does, or nothing can be said.
    """
    width, height = size
    ramp = np.full((height, width, 3), 255, dtype=np.uint8)
    ramp[..., 0] = (255 * (np.arange(width) + 0.5) / width)[None].round()
    ramp[..., 1] = (255 * (np.arange(height) + 0.5) / height)[:, None].round()
    back = np.asarray(see(Image.fromarray(ramp)).convert("RGB"), dtype=np.float64)
    shown = back[..., 2] > 240
    if not shown.any():
        return None
    red, green = (back[..., channel][shown] / 255 for channel in (0, 1))
    # a pixel's value is that of its middle, and half of it lies around
    left, right = max(red.min() - 0.5 / width, 0.0), min(red.max() + 0.5 / width, 1.0)
    top, bottom = max(green.min() - 0.5 / height, 0.0), min(green.max() + 0.5 / height, 1.0)
    if left <= SLACK and top <= SLACK and right >= 1 - SLACK and bottom >= 1 - SLACK:
        return None
    return float(left), float(top), float(right), float(bottom)


def whole(picture: Image.Image, box: Box, size: tuple[int, int]) -> Panel:
    """The whole picture as a panel, what the model doesn't see darkened and the rest framed.

    Args:
        picture: as it was read.
        box: see `seen_part`.
        size: of the other panels, in pixels.
    """
    scale = min(size[0] / picture.width, size[1] / picture.height)
    fitted = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    bright = picture.convert("RGB").resize(fitted)
    edges = [
        min(round(share * fitted[side % 2]), fitted[side % 2]) for side, share in enumerate(box)
    ]
    left, top, right, bottom = edges
    drawn = ImageEnhance.Brightness(bright).enhance(0.35)
    drawn.paste(bright.crop((left, top, right, bottom)), (left, top))
    ImageDraw.Draw(drawn).rectangle((left, top, right - 1, bottom - 1), outline=PAPER, width=2)
    sheet = Image.new("RGB", size, INK)
    sheet.paste(drawn, ((size[0] - fitted[0]) // 2, (size[1] - fitted[1]) // 2))
    parts = (right - left) * (bottom - top) / (fitted[0] * fitted[1])
    detail = f"{picture.width} x {picture.height}; the model sees {parts:.0%} of it, framed"
    return Panel(sheet, "the file", detail)
