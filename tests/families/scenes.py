"""Prompts in terms that every family shares: words, pictures and clips.

A prompt is a tuple of parts; a scene is a list of prompts. What ids and pixels a picture becomes
is for the family to say (`tests.families.case`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

SCENES = ("one", "two_sizes", "several", "video", "mixed")


@dataclass(frozen=True)
class Text:
    """`length` words, running on from word `start`."""

    length: int
    start: int = 0


@dataclass(frozen=True)
class Image:
    """A random picture of `height` x `width` pixels; equal seeds show equal pictures."""

    height: int
    width: int
    seed: int = 0


@dataclass(frozen=True)
class Video:
    """A random clip; equal seeds show equal clips."""

    frames: int
    height: int
    width: int
    seed: int = 0


Part = Text | Image | Video
Prompt = tuple[Part, ...]


def pixels(part: Image | Video) -> Tensor:
    """The picture `[3, H, W]`, or the clip `[F, 3, H, W]`, in float64."""
    generator = torch.Generator().manual_seed(1000 + part.seed)
    shape = [3, part.height, part.width]
    if isinstance(part, Video):
        shape.insert(0, part.frames)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def images(prompts: Iterable[Prompt]) -> list[Image]:
    """Every picture, in prompt order."""
    return [part for part in itertools.chain(*prompts) if isinstance(part, Image)]


def videos(prompts: Iterable[Prompt]) -> list[Video]:
    """Every clip, in prompt order."""
    return [part for part in itertools.chain(*prompts) if isinstance(part, Video)]


def scene(
    name: str,
    sizes: tuple[tuple[int, int], tuple[int, int]],
    clip: tuple[int, int, int] | None,
) -> list[Prompt]:
    """The prompts of a scene.

    Args:
        name: one of `SCENES`.
        sizes: (height, width) of the two kinds of picture.
        clip: (frames, height, width) of clips.
    """
    small, large = sizes
    first, second, third = Image(*small, 1), Image(*large, 2), Image(*large, 3)
    if name == "one":
        return [(Text(3, 10), first, Text(5, 20))]
    if name == "two_sizes":
        return [(Text(3, 10), first, Text(5, 20)), (Text(2, 50), second, Text(4, 60))]
    if name == "several":
        rows: list[Prompt] = [(Text(2, 10), first, Text(1, 30), second, Text(3, 20))]
        return [*rows, (Text(6, 80),), (Text(1, 50), third, Text(2, 60))]
    assert clip is not None, f"scene {name} needs a clip"
    if name == "video":
        rows = [(Text(3, 10), Video(*clip, 4), Text(5, 20))]
        return [*rows, (Text(2, 50), Video(*clip, 5), Text(4, 60))]
    if name == "mixed":
        rows = [(Text(2, 10), Video(*clip, 4), Text(2, 30), second, Text(3, 20))]
        return [*rows, (Text(1, 50), first, Text(4, 60))]
    raise ValueError(f"no scene {name}; there are {', '.join(SCENES)}")


def lengthened(prompt: Prompt, words: int) -> Prompt:
    """The prompt with `words` more words at its end."""
    *rest, last = prompt
    assert isinstance(last, Text), "a prompt ends with text"
    return (*rest, replace(last, length=last.length + words))


def packed(
    shown: Sequence[Image],
    clips: Sequence[Video],
    rows: Callable[[Any], Tensor],
    grid: Callable[[Any], list[int]],
) -> dict[str, Tensor]:
    """The arguments of a tower that packs pictures into one row, and clips into another.

    Args:
        shown: all pictures.
        clips: all clips, or what a model takes for such.
        rows: makes the rows of patches of one.
        grid: its (t, h, w) in patches.
    """
    call: dict[str, Tensor] = {}
    kinds = (("pixel_values", "image", shown), ("pixel_values_videos", "video", clips))
    for pixels, kind, parts in kinds:
        if parts:
            call[pixels] = torch.cat([rows(part) for part in parts])
            call[f"{kind}_grid_thw"] = torch.tensor([grid(part) for part in parts])
    return call


def padded(prompts: Iterable[Prompt]) -> dict[str, Tensor]:
    """The arguments of a tower that is given pictures filled up to the largest, and their sizes."""
    shown = images(prompts)
    if not shown:
        return {}
    highest, widest = max(one.height for one in shown), max(one.width for one in shown)
    filled = torch.zeros(len(shown), 3, highest, widest, dtype=torch.float64)
    for number, one in enumerate(shown):
        filled[number, :, : one.height, : one.width] = pixels(one)
    sizes = torch.tensor([[one.height, one.width] for one in shown])
    return {"pixel_values": filled, "image_sizes": sizes}
