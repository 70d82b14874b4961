"""The fixed held-out detail pictures: made from a seed whenever they are needed, stored nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice

from tokenprune.reference.detail_questions import ask_detail
from tokenprune.reference.detail_render import detail_textures, render_detail
from tokenprune.reference.detail_scene import DetailScene, sample_detail_scene
from tokenprune.reference.heldout import PictureSample, picture_samples

DETAIL_HELDOUT_SEED = 31_415
HELDOUT_DETAILS = 200


class DetailSample(PictureSample[DetailScene]):
    """A question about a picture of 160 x 160, 400 patches; a type of `DETAIL_TYPES`."""


def iter_heldout_details(
    images: int = HELDOUT_DETAILS, seed: int = DETAIL_HELDOUT_SEED
) -> Iterator[DetailSample]:
    """Yield the samples picture by picture; picture `i` does not depend on how many are made."""
    paint = partial(render_detail, textures=detail_textures(seed))
    return picture_samples(DetailSample, images, (seed, 5), sample_detail_scene, ask_detail, paint)


def heldout_details(limit: int | None = None) -> list[DetailSample]:
    """The held-out detail questions, or the first `limit` of them."""
    return list(islice(iter_heldout_details(), limit))
