"""Views of a picture, or frames of a video, on one canvas, every token of whole pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tokenprune.lab.drawing.views import DrawnView

Colour = tuple[int, int, int]
Paint = Callable[[Image.Image, NDArray[np.int64]], Image.Image]

#: Pixels of a token's side at least.
SMALLEST = 4


@dataclass(frozen=True)
class Placed:
    """A view where it stands on the canvas.

    Attributes:
        left: of its left edge, in pixels.
        top: of its upper edge.
        picture: enlarged, every token a square.
        units: see `View.units`.
    """

    left: int
    top: int
    picture: Image.Image
    units: NDArray[np.int64]


@dataclass(frozen=True)
class Canvas:
    """Views side by side.

    Attributes:
        width: in pixels.
        height: in pixels.
        views: in reading order.
        empty: colour of what no view covers, and of the lines between them.
    """

    width: int
    height: int
    views: Sequence[Placed]
    empty: Colour

    def painted(self, labels: NDArray[np.int64] | None, paint: Paint) -> Image.Image:
        """All views, each painted by what became of its tokens.

        Args:
            labels: `[N]` survivor of every token, -1 where dropped; None for plain pictures.
            paint: a view's picture and the survivors of its tokens `[rows, columns]` -> painted.
        """
        sheet = Image.new("RGB", (self.width, self.height), self.empty)
        for view in self.views:
            shown = view.picture
            if labels is not None:
                mine = np.where(view.units < 0, -1, labels[view.units])
                shown = paint(view.picture, mine)
            sheet.paste(shown, (view.left, view.top))
        draw = ImageDraw.Draw(sheet)
        for left in sorted({view.left for view in self.views} - {0}):
            draw.rectangle((left - 1, 0, left, self.height), fill=self.empty)
        for top in sorted({view.top for view in self.views} - {0}):
            draw.rectangle((0, top - 1, self.width, top), fill=self.empty)
        return sheet


def layout(frames: int) -> tuple[int, int]:
    """Rows and columns of the tiles of so many frames; wider than high."""
    rows = max(1, round(math.sqrt(frames / 1.6)))
    return rows, -(-frames // rows)


def canvas(views: Sequence[DrawnView], wide: int, empty: Colour) -> Canvas:
    """Lay views out on a canvas about `wide` pixels wide.

    Views of equal grids, such as frames, stand in rows; others side by side, equally high.
    """
    shapes = {view.units.shape for view in views}
    columns = layout(len(views))[1] if len(shapes) == 1 else len(views)
    if len(shapes) == 1:
        cells = [max(SMALLEST, round(wide / (views[0].units.shape[1] * columns)))] * len(views)
    else:
        high = wide / sum(view.units.shape[1] / view.units.shape[0] for view in views)
        cells = [max(SMALLEST, round(high / view.units.shape[0])) for view in views]
    placed: list[Placed] = []
    left = top = 0
    for number, (view, cell) in enumerate(zip(views, cells, strict=True)):
        if number and number % columns == 0:
            left, top = 0, top + placed[-1].picture.height
        size = (cell * view.units.shape[1], cell * view.units.shape[0])
        large = view.picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        placed.append(Placed(left, top, large, view.units))
        left += size[0]
    width = max(one.left + one.picture.width for one in placed)
    height = max(one.top + one.picture.height for one in placed)
    return Canvas(width, height, placed, empty)
