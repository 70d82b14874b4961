"""What a benchmark runs: synthetic prompts by size, or the user's own picture and question."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice, product
from typing import Any

import numpy as np
from PIL import Image

from tokenprune.errors import DataError
from tokenprune.interface.loading import Frames
from tokenprune.lab.bench.settings import BenchSettings
from tokenprune.lab.data.opening import opened
from tokenprune.lab.data.question import Question

#: The word that synthetic prompts repeat; its meaning doesn't matter for time.
WORD = "what"


#: Pictures (or lists of them) and as many questions: what a loader prepares.
Prompts = tuple[list[Any], list[str]]


@dataclass(frozen=True)
class Workload:
    """One size of input.

    Attributes:
        batch: prompts of one call.
        images: pictures of one prompt.
        height: pixels, before the model's own preprocessing; 0 for the user's own pictures.
        width: pixels.
        words: words of the question; 0 for the user's own.
        new_tokens: tokens generated after the first one.
        video: whether the pictures of a prompt are the frames of a video.
        own: what the user's own input is called; empty for synthetic input.
    """

    batch: int = 1
    images: int = 1
    height: int = 336
    width: int = 336
    words: int = 16
    new_tokens: int = 8
    video: bool = False
    own: str = ""

    @property
    def label(self) -> str:
        """Short description for tables."""
        if self.own:
            return f"batch {self.batch}, {self.own}"
        count = f"{self.images} x " if self.images > 1 else ""
        if self.video:
            count = f"{self.images} {'frames' if self.images > 1 else 'frame'} of "
        return f"batch {self.batch}, {count}{self.height}x{self.width}"


def workloads(
    batches: Sequence[int],
    images: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    *,
    words: int,
    new_tokens: int,
    video: bool = False,
) -> list[Workload]:
    """Every combination of the sizes to sweep over, in the order given.

    Args:
        batches: prompts of a call.
        images: pictures of a prompt; frames if `video`.
        sizes: height and width in pixels.
        words: of the question.
        new_tokens: after the first one.
        video: whether the pictures of a prompt are frames.
    """
    return [
        Workload(batch, count, height, width, words, new_tokens, video)
        for batch, count, (height, width) in product(batches, images, sizes)
    ]


def batches(
    workload: Workload, settings: BenchSettings, own: Sequence[Question] = ()
) -> list[Prompts]:
    """The inputs of a workload's rounds: drawn once, or the user's own batch by batch.

    The last of the user's batches is filled up from the first, and there are no more batches
    than rounds.
    """
    if not own:
        return [drawn(workload, settings.seed)]
    count = min(settings.rounds, -(-len(own) // workload.batch))
    mine = list(islice(cycle(own), count * workload.batch))
    parts = [mine[at : at + workload.batch] for at in range(0, len(mine), workload.batch)]
    return [([opened(one.image) for one in part], [one.text for one in part]) for part in parts]


def drawn(workload: Workload, seed: int) -> Prompts:
    """Noise and as many questions; several pictures are a list, those of a clip `Frames`."""
    rng = np.random.default_rng(seed)
    shape = (workload.height, workload.width, 3)
    pictures: list[Any] = []
    for _ in range(workload.batch):
        noise = [
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
            for _ in range(workload.images)
        ]
        several = Frames(noise) if workload.video else noise
        pictures.append(several if workload.video or workload.images > 1 else noise[0])
    question = " ".join([WORD] * workload.words)
    return pictures, [question] * workload.batch


def parse_size(text: str) -> tuple[int, int]:
    """`336` or `480x640` (height x width) as pixels.

    Raises:
        DataError: it is neither.
    """
    found = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text, re.ASCII)
    if found is None:
        raise DataError(
            f"'{text}' is no size.", where="--size", remedy="Write 336 or 480x640 (height x width)."
        )
    height, width = found[1], found[2] or found[1]
    return int(height), int(width)
