"""How the command line gets at models: what a loader plugin offers and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from PIL.Image import Image


Box = tuple[float, float, float, float]
"""Part of a picture: left, upper, right and lower edge, as shares of its width and height."""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
"""All of a picture."""


class Frames(tuple["Image", ...]):
    """The frames of one clip, in order; other sequences of pictures are several pictures."""

    __slots__ = ()


def _whole(picture: Image) -> list[Box]:
    return [WHOLE]


@dataclass(frozen=True)
class LoadOptions:
    """What the user asked for besides the model's name.

    Attributes:
        weights: checkpoint file, for loaders whose models are named and not stored in a folder.
        device: where the model runs.
        dtype: floating-point type of the parameters.
    """

    weights: Path | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class LoadedMllm:
    """A multimodal LLM with what turns questions into inputs and outputs into answers.

    Attributes:
        name: what the user called it.
        model: in eval mode, on its device.
        prepare: pictures and as many questions -> keyword arguments of `generate`, padded on the
            left. One picture a question, or several, or the `Frames` of a clip.
        decode: new token ids `[B, T]` -> one answer a row, without special tokens.
        picture: a picture -> the same as the model sees it, cropped and resized.
        fingerprint: SHA-256 of the weights.
        weights: where they came from.
        configs: SHA-256 of what else the model is loaded from, such as configs, processor and
            tokenizer; empty where its name says all of it.
        backends: attention implementations by name, each with what switches the model to it; it
            raises where the implementation isn't installed.
        answer_ids: an answer -> its token ids as the model would generate them, the end of the
            sequence included; None if it can't be trained on.
        unknown: a text -> its words that the tokenizer has no tokens for, which the model can't
            read; a tokenizer that spells words out of pieces has none.
        videos: whether `prepare` makes a video of a clip, as the model's family does; otherwise its
            frames are the pictures of a prompt.
        frames: a clip -> its frames as the model sees them; None for `picture` of each.
        tiles: a picture -> the parts of it that the encoder sees one by one, in order.
        answer_values: what inputs with an entry for each token say of a token of an answer, by
            name, where that isn't 0.
    """

    name: str
    model: nn.Module
    prepare: Callable[[Sequence[Image | Sequence[Image]], Sequence[str]], dict[str, Any]]
    decode: Callable[[Tensor], list[str]]
    picture: Callable[[Image], Image]
    fingerprint: Callable[[], str]
    weights: str
    backends: Mapping[str, Callable[[], None]] = field(default_factory=dict)
    configs: str = ""
    answer_ids: Callable[[str], list[int]] | None = None
    unknown: Callable[[str], list[str]] = lambda text: []
    tiles: Callable[[Image], Sequence[Box]] = _whole
    videos: bool = False
    frames: Callable[[Sequence[Image]], list[Image]] | None = None
    answer_values: Mapping[str, int] = field(default_factory=dict)

    def inputs(self, pictures: Sequence[Image | Sequence[Image]], questions: Sequence[str]) -> Any:
        """What `call` takes for a batch of questions about pictures."""
        return self.prepare(pictures, questions)

    def seen(self, pictures: Sequence[Image]) -> list[Image]:
        """Pictures as the model sees them; those of a clip are its frames."""
        if isinstance(pictures, Frames) and self.frames is not None:
            return self.frames(pictures)
        return [self.picture(picture) for picture in pictures]

    def call(self, model: nn.Module, inputs: Any) -> Any:
        """One forward of the model, or of a copy of it."""
        return model(**inputs)


@dataclass(frozen=True)
class LoadedClassifier:
    """An image classifier with its input transform.

    Attributes:
        name: what the user called it.
        model: in eval mode, on its device; logits are `[B, classes]`.
        prepare: pictures -> pixels `[B, 3, H, W]` on the model's device.
        picture: a picture -> the same as the model sees it, cropped and resized.
        classes: number of classes.
        fingerprint: SHA-256 of the weights.
        weights: where they came from.
        configs: SHA-256 of what else the model is loaded from, such as configs, processor and
            tokenizer; empty where its name says all of it.
        backends: attention implementations, as of `LoadedMllm`.
    """

    name: str
    model: nn.Module
    prepare: Callable[[Sequence[Image]], Tensor]
    picture: Callable[[Image], Image]
    classes: int
    fingerprint: Callable[[], str]
    weights: str
    backends: Mapping[str, Callable[[], None]] = field(default_factory=dict)
    configs: str = ""

    def inputs(self, pictures: Sequence[Image], questions: Sequence[str] = ()) -> Any:
        """What `call` takes for a batch of pictures; a classifier gets no questions."""
        return self.prepare(pictures)

    def call(self, model: nn.Module, inputs: Any) -> Any:
        """Logits `[B, classes]` of the model, or of a copy of it."""
        return model(inputs)


@dataclass(frozen=True)
class LoadedDual:
    """A dual encoder: a tower for pictures and one for texts, which meet in one space.

    Attributes:
        name: what the user called it.
        model: in eval mode, on its device.
        prepare: pictures -> what `embed` takes, on the model's device.
        embed: the model, or a copy of it, and what `prepare` gave -> unit-length embeddings
            `[B, D]` of the pictures, in float32. This is the call that pruning acts on.
        texts: texts -> unit-length embeddings `[T, D]` in float32; pruning doesn't touch them.
        picture: a picture -> the same as the model sees it, cropped and resized.
        fingerprint: SHA-256 of the weights.
        weights: where they came from.
        configs: SHA-256 of what else the model is loaded from, such as configs, processor and
            tokenizer; empty where its name says all of it.
        backends: attention implementations, as of `LoadedMllm`.
    """

    name: str
    model: nn.Module
    prepare: Callable[[Sequence[Image]], dict[str, Any]]
    embed: Callable[[nn.Module, dict[str, Any]], Tensor]
    texts: Callable[[Sequence[str]], Tensor]
    picture: Callable[[Image], Image]
    fingerprint: Callable[[], str]
    weights: str
    backends: Mapping[str, Callable[[], None]] = field(default_factory=dict)
    configs: str = ""

    def inputs(self, pictures: Sequence[Image], questions: Sequence[str] = ()) -> Any:
        """What `call` takes for a batch of pictures; a dual encoder gets no questions."""
        return self.prepare(pictures)

    def call(self, model: nn.Module, inputs: Any) -> Any:
        """Embeddings `[B, D]` of the model, or of a copy of it."""
        return self.embed(model, inputs)


LoadedEncoder = LoadedClassifier | LoadedDual
LoadedModel = LoadedMllm | LoadedEncoder


class Loader(Protocol):
    """One way to load a model by what stands behind `--model`.

    Attributes:
        scheme: `timm` serves `timm:NAME`; `path` serves folders without a scheme.
        usage: the form it accepts, for messages.

    A loader may have `kinds`, too: which of `mllm`, `classifier` and `dual` it can load. Then
    others aren't looked for through it.
    """

    scheme: str
    usage: str

    def load(self, target: str, options: LoadOptions) -> LoadedModel:
        """Load the model; `target` is what follows the scheme.

        Raises:
            CheckpointError: the weights are missing, damaged or those of another model.
            UnsupportedModelError: it is no model of the kind that the loader serves.
        """
        ...
