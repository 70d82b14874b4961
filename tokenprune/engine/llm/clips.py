"""Pictures of a prompt that are the frames of one video, where the model isn't told of videos."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tokenprune.engine.videos import videos_of
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.calls import ArgumentNames
from tokenprune.interface.places import Places


def require_frames(shown: Sequence[Places], names: ArgumentNames) -> None:
    """Refuse pictures that can't be frames of one video.

    Args:
        shown: the pictures.
        names: what the user calls the arguments.

    Raises:
        UnsupportedCallError: one is seen in several tiles, or they have several sizes.
    """
    grids = {places.grid for places in shown}
    tiles = max(places.pieces for places in shown)
    if tiles == 1 and len(grids) == 1:
        return
    seen = f"one is seen in {tiles} tiles" if tiles > 1 else f"they have units of {sorted(grids)}"
    raise UnsupportedCallError(
        f"pictures of this call can't be the frames of videos: {seen}.",
        where=f"images: frames, {names.pictures}",
        remedy="Give frames of one size, and let the processor cut none into tiles.",
    )


def as_clips(
    shown: Sequence[Places], ids: Tensor | None, placeholder: int, names: ArgumentNames
) -> list[Places]:
    """The pictures of every prompt as the frames of one video.

    Args:
        shown: all pictures, in prompt order.
        ids: the prompts' token ids `[B, T]`, if the running call has any.
        placeholder: token id that stands for a unit.
        names: what the user calls the arguments.

    Raises:
        UnsupportedCallError: they can't be; see `require_frames` and `videos_of`.
    """
    if not shown:
        return []
    require_frames(shown, names)
    _, height, width = shown[0].grid
    videos = videos_of(ids, placeholder, len(shown), shown[0].units, names)
    return [Places((frames, height, width)) for frames in videos.lengths]
