"""The held-out detail pictures for measuring, and the control that shows another picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tokenprune.reference.detail_heldout import DETAIL_HELDOUT_SEED, iter_heldout_details
from training.detail_model.data import ASKING, OWN_COVER
from training.reference_model.measure import Page, in_pages, make_page


def detail_pages(images: int, seed: int = DETAIL_HELDOUT_SEED, size: int = 25) -> Iterator[Page]:
    """The held-out set, `size` pictures at a time."""
    for group in in_pages(iter_heldout_details(images, seed), size):
        yield make_page(group, ASKING, OWN_COVER)


def shuffled(page: Page) -> Page:
    """The same questions, each about the next picture of the page."""
    return replace(page, images=page.images.roll(1, 0))
