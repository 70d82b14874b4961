"""Placeholders of many images at once, against loops over images and placeholders."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenprune.engine.images import ImageTokens, kept, shown, shown_units
from tokenprune.engine.llm.level import held, whole
from tokenprune.engine.llm.rows import Shown, ends_of, visual_row


@st.composite
def image(draw: st.DrawFn) -> ImageTokens:
    """Rows of units, each with a separator behind it or none, and perhaps a token that stays."""
    height, width = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    lines, fixed = draw(st.booleans()), draw(st.booleans())
    others: dict[int, tuple[int, int] | None] = {}
    for row in range(height if lines else 0):
        start = row * (width + 1)
        others[start + width] = (start, start + width)
    if fixed:
        others[height * width + len(others)] = None
    prefix = 0 if others else draw(st.integers(0, 2))
    index = draw(st.sets(st.integers(0, height * width - 1), min_size=1))
    survivors = torch.tensor(sorted(index))
    sizes = torch.ones(len(survivors))
    return ImageTokens(0, (1, height, width), prefix, survivors, sizes, others=others)


def units(one: ImageTokens) -> list[int]:
    return [at for at in range(one.prefix, one.count) if at not in one.others]


def left(one: ImageTokens) -> list[bool]:
    there = {units(one)[int(unit)] for unit in one.index}
    there |= set(range(one.prefix)) | {at for at, span in one.others.items() if span is None}
    for at, span in one.others.items():
        if span is not None and there & set(range(*span)):
            there.add(at)
    return [at in there for at in range(one.count)]


def counted(images: list[ImageTokens], of: list[list[int]]) -> list[int]:
    """Numbers within each image, counted on through all of them."""
    found, start = list[int](), 0
    for one, mine in zip(images, of, strict=True):
        found += [start + at for at in mine]
        start += one.count
    return found


@given(st.lists(image(), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_what_is_shown_and_kept_of_many_images(images: list[ImageTokens]) -> None:
    found = shown_units(images, torch.device("cpu"))
    assert found.tolist() == counted(images, [units(one) for one in images])
    survivors = [[units(one)[int(unit)] for unit in one.index] for one in images]
    assert shown(images).tolist() == counted(images, survivors)
    assert kept(images).tolist() == [stays for one in images for stays in left(one)]


@given(st.lists(image(), min_size=1, max_size=4), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_a_row_of_many_images_and_its_separators(images: list[ImageTokens], ahead: int) -> None:
    total = ahead + sum(one.count for one in images)
    valid = torch.ones(2, total + 1, dtype=torch.bool)
    (_, slot_of) = held(whole(valid, [total + 1] * 2, renumbers=False), total + 1)
    places, row = ahead + torch.arange(total - ahead), list[Shown]()
    for one in images:
        row.append(Shown(one, places[: one.count], 1))
        places = places[one.count :]
    made = visual_row(row, slot_of, False)
    assert made is not None
    survivors = [[units(one)[int(unit)] for unit in one.index] for one in images]
    assert made.slot.tolist() == [ahead + at for at in counted(images, survivors)]
    of = [number for number, one in enumerate(images) for _ in one.index]
    assert made.image.tolist() == of
    _check_ends(row, ends_of(row, slot_of), images)


def _check_ends(row: list[Shown], ends: object, images: list[ImageTokens]) -> None:
    slots: list[int] = []
    lines: list[int] = []
    for shown_, one in zip(row, images, strict=True):
        stays, own = left(one), dict[int, int]()
        for at, span in one.others.items():
            if span is not None and stays[at]:
                own |= dict.fromkeys(range(*span), len(slots))
                slots.append(int(shown_.places[at]))
        lines += [own.get(at, -1) for at in units(one)]
    if not slots:
        assert ends is None
        return
    found: dict[str, Tensor] = vars(ends)
    assert found["slot"].tolist() == slots
    assert found["line"].tolist() == list(range(len(slots)))
    assert found["of"].tolist() == lines
