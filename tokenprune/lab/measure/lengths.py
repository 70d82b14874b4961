"""How many tokens of an image the LLM sees, where every image has a number of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenprune.interface.strategy import PruningStrategy
from tokenprune.interface.trace import ImageTrace


def own_length(stages: Iterable[Any]) -> bool:
    """Whether one of a plan's built stages leaves a number of tokens that depends on the data."""
    strategies: list[PruningStrategy[Any]] = [stage.strategy for stage in stages]
    return not all(strategy.length == "planned" for strategy in strategies)


def tokens_in_llm(image: ImageTrace) -> float:
    """Tokens of an image or of a frame of a video, averaged over the layers of the LLM.

    Without a stage inside the LLM it is the number that is handed to the LLM.
    """
    present, seen, total, layers = image.patches, 0, 0.0, 0
    for step in image.steps:
        if step.site.stage == "decoder":
            total += present * (step.site.layer - seen)
            seen, layers = step.site.layer, step.site.layers
        present = step.kept
    mean = (total + present * (layers - seen)) / layers if layers else float(present)
    return mean / image.grid[0]
