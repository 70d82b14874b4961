"""What makes up a recipe for a family's processor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.families.models.common import IMAGE, VIDEO

VISION = ("torchvision",)
BOTH = {IMAGE: "<image>", VIDEO: "<video>"}


@dataclass(frozen=True)
class Recipe:
    """A family's processor.

    Attributes:
        processor: makes the processor for a case and a tokenizer.
        special: the family's special tokens, by id.
        picture: what stands for a picture in the text that a user gives.
        clip: what stands for a clip, where the family takes clips.
        named: ids of special tokens by the attributes under which the processor looks for them.
        needs: packages that the processor imports, besides pillow.
        flat: whether it takes the pictures of all prompts in one list.
    """

    processor: Callable[[Any, Any], Any]
    special: dict[int, str]
    picture: str = "<image>"
    clip: str = "<video>"
    named: dict[str, int] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    flat: bool = False


def made(name: str, **settings: Any) -> Any:
    """An object of a class of transformers."""
    import transformers

    return getattr(transformers, name)(**settings)


def images(name: str, **settings: Any) -> Any:
    """An image processor: on torchvision where it is installed, else the one on pillow."""
    from transformers.utils import is_torchvision_available

    return made(name if is_torchvision_available() else f"{name}Pil", **settings)


def square(side: int) -> dict[str, int]:
    """A size with two equal sides."""
    return {"height": side, "width": side}
