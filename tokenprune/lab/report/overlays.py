"""What was kept of a picture, as SVG over the picture itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

#: Width of a picture on the page.
SIDE = 140

#: What pictures start with; anything else isn't shown, since it could be a request.
PICTURE = "data:image/jpeg;base64,"


class Pictures:
    """The page's pictures, each written once and used by every plan's overlay."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, picture: str) -> int:
        """The number of a data URI."""
        return self._numbers.setdefault(picture, len(self._numbers))

    def definitions(self) -> str:
        """All of them, to stand somewhere in the page."""
        return "".join(
            f'<symbol id="p{number}" viewBox="0 0 1 1" preserveAspectRatio="none">'
            f'<image href="{escape(picture)}" width="1" height="1" preserveAspectRatio="none"/>'
            "</symbol>"
            for picture, number in self._numbers.items()
        )


def overlay(frames: Sequence[Mapping[str, Any]], label: str, pictures: Pictures) -> str:
    """The frames of one sample with what was dropped covered.

    Args:
        frames: each with `picture`, `grid` (h, w) and `kept`, as recorded.
        label: for those who can't see it.
        pictures: of the page.
    """
    drawn = [frame for frame in frames if str(frame["picture"]).startswith(PICTURE)]
    return "".join(_frame(frame, label, pictures.number(frame["picture"])) for frame in drawn)


def _frame(frame: Mapping[str, Any], label: str, picture: int) -> str:
    height, width = (int(side) for side in frame["grid"])
    dropped = sorted(set(range(height * width)) - {int(place) for place in frame["kept"]})
    cells = "".join(f"M{place % width},{place // width}h1v1h-1z" for place in dropped)
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{SIDE}" height="{SIDE * height / width:.0f}" '
        f'role="img" aria-label="{escape(label)}" class="overlay">'
        f'<use href="#p{picture}" width="{width}" height="{height}"/>'
        f'<path d="{cells}" class="dropped"/></svg>'
    )
