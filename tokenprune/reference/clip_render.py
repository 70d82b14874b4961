"""Clips to pixels: one background for the whole clip, noise and moving objects in every frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenprune.reference.clip import FRAMES, ClipScene
from tokenprune.reference.render import Textures, background, item_mask, patch_cover
from tokenprune.reference.scene import CANVAS, COLOURS, GRID

#: Deviation of the noise that changes from frame to frame, of 255.
FRAME_NOISE = 2.5


@dataclass(frozen=True)
class RenderedClip:
    """Frames and the share of every patch that each object covers.

    Attributes:
        frames: `[8, 112, 112, 3]` uint8.
        cover: `[8, objects, 196]` float32 in 0..1, 0 where an object is not visible.
    """

    frames: NDArray[np.uint8]
    cover: NDArray[np.float32]


def render_clip(clip: ClipScene, rng: np.random.Generator, textures: Textures) -> RenderedClip:
    """Draw all frames of a clip over one fresh background."""
    ground = background(rng, textures)
    shades = [
        (np.asarray(COLOURS[mover.item.colour]) + rng.uniform(-12, 12)).astype(np.float32)
        for mover in clip.movers
    ]
    frames = np.empty((FRAMES, CANVAS, CANVAS, 3), dtype=np.uint8)
    cover = np.zeros((FRAMES, len(clip.movers), GRID * GRID), dtype=np.float32)
    for t in range(FRAMES):
        canvas = ground + FRAME_NOISE * rng.standard_normal(ground.shape, dtype=np.float32)
        for index, mover in enumerate(clip.movers):
            if mover.shown[t]:
                mask = item_mask(mover.at(t))
                cover[t, index] = patch_cover(mask)
                canvas += mask[:, :, None] * (shades[index] - canvas)
        frames[t] = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
    return RenderedClip(frames, cover)
