"""Small models and prompts with any number of pictures, on which growth is measured.

LLaVA's pictures have one size. Those of Qwen2.5-VL have one size, or as many as there are grids in
`MIXED`: strategies are asked about pictures of equal grids together, so these are the harder case.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from benchmarks.models import Inputs, language, llava, llava_call, qwen, qwen_call
from benchmarks.towers import qwen_vision, sizes

WORDS = 16

#: Rows and columns of units, relative to the square grid: about as many units, other shapes.
MIXED = (
    (1, 1),
    (1.25, 0.75),
    (0.75, 1.25),
    (1.5, 0.75),
    (0.75, 1),
    (1, 0.75),
    (1.25, 1),
    (1, 1.25),
)


@dataclass(frozen=True)
class Size:
    """Of the models.

    Attributes:
        side: rows and columns of LLaVA's patches, and of the units of a square Qwen picture.
        width: of towers.
        depth: blocks of towers.
        language: width of the LLM, of two layers.
    """

    side: tuple[int, int]
    width: int
    depth: int
    language: int


SMALL, TINY = Size((16, 8), 128, 8, 64), Size((6, 4), 32, 4, 32)


@dataclass(frozen=True)
class Family:
    """A model and its calls.

    Attributes:
        name: in records.
        build: the model, in eval mode.
        call: a prompt with that many pictures.
        strategies: place of each strategy that is measured on it.
    """

    name: str
    build: Callable[[], nn.Module]
    call: Callable[[int], Inputs]
    strategies: dict[str, str]

    def plan(self, strategy: str) -> dict[str, Any]:
        """Half of the tokens are left; inside the LLM in front of its second layer."""
        place = self.strategies[strategy]
        stage = {"at": place, "strategy": strategy, "keep": 0.5}
        if place == "decoder":
            stage["layer"] = 1
        return {"schema_version": 1, "stages": [stage]}


def families(*, tiny: bool = False) -> tuple[Family, ...]:
    """What growth is measured on; in tiny sizes to try it out."""
    size = TINY if tiny else SMALL
    packed = {"tome": "encoder", "evoprune": "encoder", "fopru": "pre_llm", "divprune": "pre_llm"}
    return (
        Family(
            "llava",
            lambda: _llava(size),
            lambda images: llava_call(8 * size.side[0], size.side[0] ** 2, images, WORDS),
            {**packed, "visionzip": "pre_llm", "fastv": "decoder"},
        ),
        Family(
            "qwen2.5-vl",
            lambda: _qwen(size),
            lambda images: qwen_call([(size.side[1], size.side[1])] * images, WORDS),
            packed,
        ),
        Family(
            f"qwen2.5-vl, {len(MIXED)} grids",
            lambda: _qwen(size),
            lambda images: qwen_call(_mixed(size, images), WORDS),
            packed,
        ),
    )


def _language(size: Size) -> dict[str, Any]:
    return language(size.language, 2 * size.language, 2, 4, longest=1 << 16)


def _llava(size: Size) -> nn.Module:
    side, width = size.side[0], size.width
    made: nn.Module = llava(sizes(8 * side, 8, width, size.depth, 4, 4 * width), _language(size))
    return made


def _qwen(size: Size) -> nn.Module:
    eighth = size.language // 4 // 8
    vision = qwen_vision(size.depth, size.width, size.language)
    made: nn.Module = qwen(vision, _language(size), (2 * eighth, eighth, eighth))
    return made


def _mixed(size: Size, images: int) -> list[tuple[int, int]]:
    """Rows and columns of units of pictures whose grids take turns."""
    side = size.side[1]
    grids = [(int(rows * side), int(columns * side)) for rows, columns in MIXED]
    return [grids[number % len(grids)] for number in range(images)]
