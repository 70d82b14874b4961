"""Pictures with captions, laid out on a sheet."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

GAP = 20
CAPTION = 58
FOOT = 26
COLUMNS = 6
LEGEND = "White outline: kept as it is.  Colour: merged into one token.  Dark: dropped."
PAPER = (250, 250, 248)
INK = (28, 30, 34)
FAINT = (112, 116, 124)


@dataclass(frozen=True)
class Panel:
    """One picture with a heading and a line below it."""

    picture: Image.Image
    heading: str
    detail: str


def strip(panels: Sequence[Panel], title: str = "") -> Image.Image:
    """Panels of one size side by side on paper, in rows of at most `COLUMNS`."""
    wide, high = panels[0].picture.size
    columns = min(len(panels), COLUMNS)
    rows = -(-len(panels) // columns)
    head = 44 if title else 0
    width = columns * (wide + GAP) + GAP
    height = head + rows * (GAP + CAPTION + high) + FOOT
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((GAP, GAP), _fit(draw, title, width - 2 * GAP, 20), INK, _font(20))
    for number, panel in enumerate(panels):
        left = GAP + number % columns * (wide + GAP)
        top = head + GAP + number // columns * (GAP + CAPTION + high)
        draw.text((left, top), _fit(draw, panel.heading, wide, 19), INK, _font(19))
        draw.text((left, top + 26), _fit(draw, panel.detail, wide, 15), FAINT, _font(15))
        sheet.paste(panel.picture, (left, top + CAPTION - 6))
    if len(panels) > 1:
        legend = _fit(draw, LEGEND, width - 2 * GAP, 14)
        draw.text((GAP, height - FOOT), legend, FAINT, _font(14))
    return sheet


def stack(sheets: Sequence[Image.Image]) -> Image.Image:
    """Sheets of several pictures below each other."""
    width = max(sheet.width for sheet in sheets)
    whole = Image.new("RGB", (width, sum(sheet.height for sheet in sheets)), PAPER)
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fit(draw: ImageDraw.ImageDraw, text: str, room: int, size: int) -> str:
    """The text on one line, cut with an ellipsis where it is wider than `room`."""
    font = _font(size)
    text = " ".join(text.split())
    # a letter is wider than nothing, and only as much as may fit is measured
    if len(text) <= room and draw.textlength(text, font=font) <= room:
        return text
    most = bisect_left(
        range(1, min(len(text), room) + 1),
        True,
        key=lambda count: draw.textlength(f"{text[:count]}...", font=font) > room,
    )
    return f"{text[:most].rstrip()}..."
