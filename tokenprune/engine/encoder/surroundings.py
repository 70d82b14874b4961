"""What a vision encoder is told by the model that it is a part of."""

from __future__ import annotations

from collections.abc import Sequence

from tokenprune.engine.call import CallState
from tokenprune.engine.videos import Videos


class Surroundings:
    """What the model around an encoder knows of its passes; this one knows nothing.

    Attributes:
        alone: whether the plan was attached to the encoder itself, so that no model is around it.
        levels: the numbers of blocks behind which states are read.
        pieces: whether pictures come in pieces, which are traced as whole pictures later.
    """

    alone = False
    levels: frozenset[int] = frozenset()
    pieces = False

    def side(self, call: CallState | None) -> int:
        """Rows and columns of patches that make one unit behind the encoder.

        Args:
            call: the running call; None in front of one.
        """
        return 1

    def videos(self, call: CallState, images: int, units: int) -> Videos | None:
        """Which images of a batch are frames of one video; None where each is a picture.

        Args:
            call: the running call.
            images: images of the batch.
            units: units of each.
        """
        return None

    def clips(self, call: CallState) -> Sequence[int] | None:
        """Frames of every clip among the pictures of a packed pass; None where it tells itself."""
        return None

    def tiled(self, call: CallState) -> bool:
        """Whether pictures of a packed pass may be tiles, which are traced as pictures later."""
        return False


class Alone(Surroundings):
    """Those of an encoder that the plan was attached to by itself."""

    alone = True
