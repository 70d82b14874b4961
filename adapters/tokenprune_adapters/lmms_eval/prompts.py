"""From lmms-eval's chat messages to the inputs of `generate`, and back to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tokenprune.errors import UnsupportedCallError
from tokenprune.lab.data.reading import as_rgb, open_picture
from tokenprune_adapters.loaders.prompts import ANSWER_VALUES, SURPLUS, asked

if TYPE_CHECKING:
    from PIL.Image import Image

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Conversation:
    """The messages of one request, in the form that chat templates read.

    Attributes:
        turns: role and parts of every message.
        images: in the order in which the turns name them.
    """

    turns: list[dict[str, Any]]
    images: list[Image]


def conversation(messages: Sequence[Message]) -> Conversation:
    """Read the messages of one request.

    Args:
        messages: role and content; the content is text, or parts of type `text` and `image`.

    Raises:
        UnsupportedCallError: they hold a video or sound.
        DataError: a picture can't be read.
    """
    turns, images = [], []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        shown = []
        for part in parts:
            if part["type"] == "text":
                shown.append({"type": "text", "text": part["text"]})
            elif part["type"] == "image":
                shown.append({"type": "image"})
                images.append(_picture(part["url"]))
            else:
                raise UnsupportedCallError(
                    f"the request holds a part of type '{part['type']}'.",
                    where="lmms-eval",
                    remedy="tokenprune's models answer tasks of images and text.",
                )
        turns.append({"role": message["role"], "content": shown})
    return Conversation(turns, images)


class Chat:
    """A processor of transformers with its chat template.

    Args:
        processor: padded on the left from now on.
        template: replaces the processor's own.
    """

    def __init__(self, processor: Any, template: str | None = None) -> None:
        self.processor = processor
        processor.tokenizer.padding_side = "left"
        if template is not None:
            processor.chat_template = template

    def text(self, asked: Conversation) -> str:
        """The prompt. Without a template: an image token a picture, and the text as it is."""
        if getattr(self.processor, "chat_template", None):
            return str(self.processor.apply_chat_template(asked.turns, add_generation_prompt=True))
        parts = [part for turn in asked.turns for part in turn["content"]]
        return "".join(part.get("text", self.processor.image_token) for part in parts)

    def inputs(self, conversations: Sequence[Conversation]) -> Any:
        """Inputs of `generate`, padded on the left."""
        images: Any = [one.images for one in conversations]
        if not all(images):  # not every processor takes an empty list for a text alone
            images = [image for one in conversations for image in one.images] or None
        given = {"images": images, "text": [self.text(one) for one in conversations]}
        batch = self.processor(**given, **asked(self.processor), padding=True, return_tensors="pt")
        for name in SURPLUS:
            batch.pop(name, None)
        return batch

    @property
    def answer_values(self) -> Mapping[str, int]:
        """See `LoadedMllm.answer_values`."""
        return ANSWER_VALUES.get(type(self.processor).__name__, {})

    def decode(self, ids: Tensor) -> list[str]:
        """New token ids `[B, T]` -> answers."""
        answers = self.processor.batch_decode(ids, skip_special_tokens=True)
        return [str(answer).strip() for answer in answers]

    def count(self, ids: Tensor) -> list[int]:
        """New tokens of every row `[B, T]`, without the padding behind their end."""
        tokenizer = self.processor.tokenizer
        padding = tokenizer.pad_token_id
        return [int((row != padding).sum()) for row in ids]


def _picture(given: Any) -> Image:
    if isinstance(given, str | Path):
        return open_picture(Path(given))
    return as_rgb(given)
