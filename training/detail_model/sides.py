"""What stands right beside every item: a dense target of the tower, asked in no question."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tokenprune.reference.detail_scene import DetailScene
from tokenprune.reference.questions import RELATIONS

#: What stands beside an item is at most so far along the direction and so little across it.
NEAR, STRAIGHT = 22.0, 6.0
#: Nothing else may stand in this larger zone, or the side is left open.
DOUBT_NEAR, DOUBT_STRAIGHT = 27.0, 11.0
#: In place of a neighbour, where it can't be told clearly.
DOUBT = -2
SIDES = len(RELATIONS)


def neighbours(scene: DetailScene) -> NDArray[np.int64]:
    """Which item stands right beside each one, by side: `[items, 4]`, sides as in `RELATIONS`.

    -1 is nothing, `DOUBT` more than one item, or one that is neither clearly there nor away.
    """
    x, y = (np.array([getattr(item, axis) for item in scene.items]) for axis in "xy")
    right, down = x[None, :] - x[:, None], y[None, :] - y[:, None]
    out = np.empty((len(x), SIDES), dtype=np.int64)
    for side, (dx, dy) in enumerate(RELATIONS.values()):
        along, across = dx * right + dy * down, np.abs(dy * right + dx * down)
        near = (along > 0.0) & (along <= NEAR) & (across <= STRAIGHT)
        doubtful = (along > 0.0) & (along <= DOUBT_NEAR) & (across <= DOUBT_STRAIGHT)
        found = np.where(near.any(1), near.argmax(1), -1)
        out[:, side] = np.where(doubtful.sum(1) == near.any(1), found, DOUBT)
    return out
