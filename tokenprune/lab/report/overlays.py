"""What became of a picture's patches, as SVG over the picture itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tokenprune.lab.drawing.colours import TINT, colour

#: Width of a picture on the page.
SIDE = 140

#: What pictures start with; anything else isn't shown, since it could be a request.
PICTURE = "data:image/jpeg;base64,"

Frame = Mapping[str, Any]
Owners = Sequence[int]


class PageImages:
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


def counts(frames: Sequence[Frame]) -> dict[str, int]:
    """How many patches there are, tokens that are left, and merged and dropped ones among them."""
    owners = [owner for frame in frames for owner in frame["owner"]]
    kept = [owner for owner in owners if owner >= 0]
    return {
        "patches": len(owners),
        "left": len(set(kept)),
        "merged": len(_merged(owners)),
        "dropped": len(owners) - len(kept),
    }


def in_words(frames: Sequence[Frame]) -> str:
    """The same as text: `16 of 196 left, 12 of them merged; 0 dropped`."""
    found = counts(frames)
    merged = f", {found['merged']} of them merged" if found["merged"] else ""
    dropped = f", {found['dropped']} dropped" if found["dropped"] else ""
    return f"{found['left']} of {found['patches']} left{merged}{dropped}"


def overlay(frames: Sequence[Frame], label: str, pictures: PageImages) -> str:
    """The frames of one sample: merged groups in one colour each, dropped patches grey.

    A token that was merged across frames has its colour in all of them.

    Args:
        frames: each with `picture`, `grid` (h, w) and `owner`, as recorded.
        label: for those who can't see it.
        pictures: of the page.
    """
    merged = _merged([owner for frame in frames for owner in frame["owner"]])
    drawn = [frame for frame in frames if str(frame["picture"]).startswith(PICTURE)]
    return "".join(
        _frame(frame, label, pictures.number(frame["picture"]), merged) for frame in drawn
    )


def _merged(owners: Owners) -> set[int]:
    """Survivors that stand for more than one patch."""
    patches: dict[int, int] = defaultdict(int)
    for owner in owners:
        patches[owner] += 1
    return {owner for owner, number in patches.items() if owner >= 0 and number > 1}


def _frame(frame: Frame, label: str, picture: int, merged: set[int]) -> str:
    height, width = (int(side) for side in frame["grid"])
    owners = [int(owner) for owner in frame["owner"]]
    cells: dict[int, list[int]] = defaultdict(list)
    for place, owner in enumerate(owners):
        cells[owner].append(place)
    dropped = "".join(f"M{place % width},{place // width}h1v1h-1z" for place in cells[-1])
    groups = "".join(
        _group(places, owners, width, colour(owner))
        for owner, places in cells.items()
        if owner in merged
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{SIDE}" height="{SIDE * height / width:.0f}" '
        f'role="img" aria-label="{escape(label)}" class="overlay"><title>{escape(label)}</title>'
        f'<use href="#p{picture}" width="{width}" height="{height}"/>'
        f'{groups}<path d="{dropped}" class="dropped"/></svg>'
    )


def _group(places: Sequence[int], owners: Owners, width: int, paint: tuple[int, int, int]) -> str:
    """One merged token: its patches tinted, and a line where another token begins."""
    tint = "".join(f"M{place % width},{place // width}h1v1h-1z" for place in places)
    line = "".join(edge for place in places for edge in _edges(place, owners, width))
    shade = f"rgb({paint[0]},{paint[1]},{paint[2]})"
    return (
        f'<path d="{tint}" fill="{shade}" fill-opacity="{TINT}"/>'
        f'<path d="{line}" stroke="{shade}" class="edge"/>'
    )


def _edges(place: int, owners: Owners, width: int) -> list[str]:
    column, row, mine = place % width, place // width, owners[place]
    beside = {
        f"M{column},{row}v1": column > 0 and owners[place - 1] == mine,
        f"M{column + 1},{row}v1": column < width - 1 and owners[place + 1] == mine,
        f"M{column},{row}h1": row > 0 and owners[place - width] == mine,
        f"M{column},{row + 1}h1": place + width < len(owners) and owners[place + width] == mine,
    }
    return [path for path, same in beside.items() if not same]
