"""What a benchmark runs: synthetic prompts by size, or the user's own picture and question."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from PIL import Image

from tokenprune.errors import DataError
from tokenprune.loading import LoadedMllm

#: The word that synthetic prompts repeat; its meaning doesn't matter for time.
WORD = "what"


@dataclass(frozen=True)
class Workload:
    """One size of input.

    Attributes:
        batch: prompts of one call.
        images: pictures of one prompt.
        height: pixels, before the model's own preprocessing.
        width: pixels.
        words: words of the question.
        new_tokens: tokens generated after the first one.
    """

    batch: int = 1
    images: int = 1
    height: int = 336
    width: int = 336
    words: int = 16
    new_tokens: int = 8

    @property
    def label(self) -> str:
        """Short description for tables."""
        pictures = f"{self.images} x " if self.images > 1 else ""
        return f"batch {self.batch}, {pictures}{self.height}x{self.width}"


def workloads(
    batches: Sequence[int],
    images: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    *,
    words: int,
    new_tokens: int,
) -> list[Workload]:
    """Every combination of the sizes to sweep over, in the order given."""
    return [
        Workload(batch, count, height, width, words, new_tokens)
        for batch, count, (height, width) in product(batches, images, sizes)
    ]


def synthetic(loaded: LoadedMllm, workload: Workload, seed: int) -> dict[str, Any]:
    """Inputs of `generate` made of `drawn` pictures and questions."""
    return loaded.prepare(*drawn(workload, seed))


def drawn(workload: Workload, seed: int) -> tuple[list[Any], list[str]]:
    """Noise pictures, and as many questions of so many words; several pictures make a list."""
    rng = np.random.default_rng(seed)
    shape = (workload.height, workload.width, 3)
    pictures: list[Any] = []
    for _ in range(workload.batch):
        noise = [
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
            for _ in range(workload.images)
        ]
        pictures.append(noise if workload.images > 1 else noise[0])
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
