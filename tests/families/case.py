"""What a family gives to the tests: a tiny model, and inputs as its processor makes them."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.families import scenes
from tests.families.models.common import BOS, IMAGE, PAD, VIDEO, built, words
from tests.families.scenes import Image, Prompt, Text, Video

PAD_ALONE = 3


@dataclass(frozen=True, eq=False)
class Case(ABC):
    """A family, or a variant of one.

    Attributes:
        name: of the case, unique.
        model_class: name of the class in transformers.
        sizes: (height, width) of the two kinds of picture; equal where the family has one size.
        clip: (frames, height, width) of clips, or None where the family takes none.
        rounding: how far a padded batch may be from its samples in float64, in the plain model;
            above 1e-9 where the model itself rounds to float32.
    """

    heard: ClassVar[tuple[str, ...]] = ()
    """Arguments that bring sound; processors aren't asked for any."""
    name: str
    model_class: str
    sizes: tuple[tuple[int, int], tuple[int, int]]
    clip: tuple[int, int, int] | None = None
    rounding: float = 1e-9

    @abstractmethod
    def config(self) -> Any:
        """Config of the tiny model."""

    @abstractmethod
    def image_ids(self, image: Image, prompt: Prompt) -> list[int]:
        """Ids that stand for a picture: placeholders and the text around them."""

    @abstractmethod
    def extras(self, ids: Tensor, prompts: list[Prompt]) -> dict[str, Tensor]:
        """The family's own arguments, floats in float64; `ids` is `[B, T]`."""

    def video_ids(self, video: Video) -> list[int]:
        """Ids that stand for a clip."""
        raise NotImplementedError(f"{self.name} takes no clips")

    def arranged(self, prompt: Prompt) -> Prompt:
        """The prompt in the order that the family's processor gives it."""
        return prompt

    @property
    def scenes(self) -> tuple[str, ...]:
        """Names of the scenes that the family can show."""
        return scenes.SCENES if self.clip else scenes.SCENES[:3]

    def missing(self, scene: str = "one") -> str | None:
        """Why the installed transformers can't run a scene of the case, or None."""
        import transformers

        if hasattr(transformers, self.model_class):
            return None
        return f"transformers {transformers.__version__} has no {self.model_class}"

    def build(self, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> Any:
        """The model in eval mode; tests share it, so they leave it as it was."""
        return _shared(self, dtype, attention)

    def create(self, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> Any:
        """A model of the caller's own, with equal weights."""
        return self.made(self.config(), dtype, attention)

    def made(self, config: Any, dtype: torch.dtype, attention: str) -> Any:
        """A model of a config."""
        import transformers

        model_class = getattr(transformers, self.model_class)
        return built(model_class, config, dtype, self.functions(attention))

    def functions(self, attention: str) -> str | dict[str, str]:
        """Attention functions of the model's parts, or one of all that have several.

        Args:
            attention: the one that is wanted.
        """
        return attention

    def prompts(self, scene: str, padding: str = "left") -> list[Prompt]:
        """The prompts of a scene; without padding, shorter ones get more words at their end."""
        rows = [self.arranged(row) for row in scenes.scene(scene, self.sizes, self.clip)]
        if padding != "none":
            return rows
        lengths = [len(self.ids(row)) for row in rows]
        return [
            scenes.lengthened(row, max(lengths) - length)
            for row, length in zip(rows, lengths, strict=True)
        ]

    def ids(self, prompt: Prompt) -> list[int]:
        """Token ids of one prompt, placeholders expanded."""
        row = [BOS]
        for part in prompt:
            if isinstance(part, Text):
                row += words(part.length, part.start)
            elif isinstance(part, Image):
                row += self.image_ids(part, prompt)
            else:
                row += self.video_ids(part)
        return row

    def inputs(
        self, scene: str, padding: str = "left", dtype: torch.dtype = torch.float32
    ) -> dict[str, Tensor]:
        """Keyword arguments of the plain model for a scene.

        Args:
            scene: one of `self.scenes`.
            padding: `left`, `right` or `none`; a single padded row gets three pad tokens.
            dtype: of pixels.
        """
        return self.call(self.prompts(scene, padding), padding, dtype)

    def alone(
        self, scene: str, padding: str = "left", dtype: torch.dtype = torch.float32
    ) -> list[dict[str, Tensor]]:
        """The same prompts as calls of their own, without padding."""
        return [self.call([row], "none", dtype) for row in self.prompts(scene, padding)]

    def call(self, prompts: list[Prompt], padding: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """Keyword arguments of the plain model for these prompts."""
        rows = [self.ids(prompt) for prompt in prompts]
        longest = max(len(row) for row in rows)
        if padding != "none" and len(rows) == 1:
            longest += PAD_ALONE
        ids = torch.full((len(rows), longest), PAD)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            start = longest - len(row) if padding == "left" else 0
            ids[number, start : start + len(row)] = torch.tensor(row)
            mask[number, start : start + len(row)] = 1
        call = {"input_ids": ids, "attention_mask": mask, **self.extras(ids, prompts)}
        return {k: v.to(dtype) if v.is_floating_point() else v for k, v in call.items()}

    def placeholders(self, inputs: dict[str, Tensor]) -> Tensor:
        """`[B, T]` bool: the places of pictures and clips, separators included."""
        ids = inputs["input_ids"]
        return (ids == IMAGE) | (ids == VIDEO)

    def told_apart(self, ids: Tensor) -> Tensor:
        """Ids with another one for placeholders of clips where both kinds may stand together."""
        return ids

    def sound(self, inputs: dict[str, Tensor]) -> Tensor:
        """`[B, T]` bool: the places of sound."""
        return torch.zeros_like(inputs["input_ids"], dtype=torch.bool)

    def added(self, inputs: dict[str, Tensor]) -> int:
        """Separators that the model adds behind `get_image_features` and `get_video_features`."""
        return 0

    def positions(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Position ids that skip padding, as `generate` makes them; a plain forward counts it."""
        counted = inputs["attention_mask"].cumsum(-1) - 1
        return {"position_ids": counted.clamp(min=0)}


@functools.cache
def _shared(case: Case, dtype: torch.dtype, attention: str) -> Any:
    return case.create(dtype, attention)
