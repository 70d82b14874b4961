"""Questions and pictures to inputs of a multimodal LLM of transformers, and answers back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tokenprune.errors import DataError
from tokenprune.interface.loading import WHOLE, Box, Frames
from tokenprune_adapters.loaders.checkpoints import to_picture
from tokenprune_adapters.loaders.clips import (
    VIDEO,
    check_beside,
    seen_frames,
    takes_clips,
    video_arguments,
)
from tokenprune_adapters.loaders.tiles import coordinates, seen_box, unpatched, unrolled

if TYPE_CHECKING:
    from PIL.Image import Image

#: How LLaVA's data files mark the place of a picture in a question.
IMAGE = "<image>"

#: What some processors give besides inputs of `generate`.
SURPLUS = ("labels",)

#: What inputs with an entry for each token say of answers, where that isn't 0, by processor.
#: PaliGemma's prompt sees itself both ways, and 1 is what follows in causal order.
ANSWER_VALUES = {"PaliGemmaProcessor": {"token_type_ids": 1}}

#: Arguments by which a processor gives all inputs that its model needs, by processor.
ASKED = {"Cosmos3EdgeProcessor": {"return_mm_token_type_ids": True}}

#: Processors to which lists of a prompt's own pictures are something else, such as pages.
FLAT = ("GotOcr2Processor",)

#: What the names of pixels begin with, in every family.
PIXELS = "pixel_values"

#: Rows and columns of the patches of each tile, where pixels are patches padded to the most.
SHAPES = "spatial_shapes"

#: The same, where the patches of all tiles stand side by side in one band.
SIZES = "target_sizes"

#: Parts of a picture apart from the whole, which stands behind them (DeepSeek-OCR 2).
PARTS = f"{PIXELS}_local"


def asked(processor: Any) -> dict[str, bool]:
    """Arguments by which a processor gives all inputs that its model needs."""
    return ASKED.get(type(processor).__name__, {})


class Prompts:
    """Questions and pictures to inputs, with the processor's chat template if it has one."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        processor.tokenizer.padding_side = "left"

    @property
    def videos(self) -> bool:
        """Whether clips become videos; otherwise their frames are the pictures of a prompt."""
        return takes_clips(self.processor)

    def text(self, question: str, count: int = 1, *, clip: bool = False) -> str:
        """The prompt of one question about a picture, or about several in order, or about a clip.

        `<image>` in a question, or the processor's own word for it, is the place of the picture,
        as in LLaVA's data files: once for all pictures, or once for each. Without it they stand in
        front of the question. The same goes for `<video>` and clips.

        Args:
            question: what is asked.
            count: how many pictures or clips there are.
            clip: whether the processor gets a clip.

        Raises:
            DataError: it stands there more often or less often than there are pictures, or nothing
                tells how a picture is written.
        """
        kind = "video" if clip else "image"
        pieces, counts = self._placed(question, count)
        if not getattr(self.processor, "chat_template", None):
            token = self._word(kind)
            if token is None:
                raise DataError(
                    f"{type(self.processor).__name__} has no chat template and no {kind}_token.",
                    remedy="Use a processor with a chat template.",
                )
            return pieces[0] + "".join(
                token * count + text for count, text in zip(counts, pieces[1:], strict=True)
            )
        parts = [{"type": "text", "text": pieces[0]}] if pieces[0] else []
        for count, text in zip(counts, pieces[1:], strict=True):
            parts += [{"type": kind} for _ in range(count)]
            parts += [{"type": "text", "text": text}] if text else []
        turns = [{"role": "user", "content": parts}]
        return str(self.processor.apply_chat_template(turns, add_generation_prompt=True))

    def _placed(self, question: str, images: int) -> tuple[list[str], list[int]]:
        """What stands around the pictures' places, and how many pictures stand at each."""
        pieces = re.split("|".join(map(re.escape, sorted(self._marks))), question)
        places = len(pieces) - 1
        if not places:
            return ["", question], [images]
        if not pieces[0].strip():  # templates bring their own white space behind a picture
            pieces = ["", pieces[1].lstrip(), *pieces[2:]]
        if places not in (1, images):
            raise DataError(
                f"the question has {places} places for pictures, and there are {images}.",
                where=f"question '{question[:60]}'",
                remedy=f"Write {IMAGE} once, once for every picture, or leave it out.",
            )
        return pieces, [images] if places == 1 else [1] * places

    @property
    def _marks(self) -> set[str]:
        """Words that are the place of a picture or of a clip."""
        own = (self._word(kind) for kind in ("image", "video"))
        return {IMAGE, VIDEO, *(word for word in own if word)}

    def _word(self, kind: str) -> str | None:
        """What stands for a picture or clip in a prompt; where it's no token, such as a unit's."""
        names = (f"{kind}_placeholder_token", f"{kind}_token")
        found = (getattr(self.processor, name, None) for name in names)
        return next((str(word) for word in found if word), None)

    def batch(self, pictures: Sequence[Image | Sequence[Image]], questions: Sequence[str]) -> Any:
        """Inputs of `generate`, padded on the left.

        Raises:
            DataError: a question has more or fewer places than pictures, or clips can't be made
                into videos.
        """
        shown = [one if isinstance(one, Sequence) else [one] for one in pictures]
        clips = [one if self.videos and isinstance(one, Frames) else None for one in shown]
        texts = [
            self.text(question, len(one) if clip is None else 1, clip=clip is not None)
            for question, one, clip in zip(questions, shown, clips, strict=True)
        ]
        given = video_arguments(self.processor, [clip for clip in clips if clip is not None])
        if None in clips:
            if given:
                check_beside(self.processor)
            # a list for each prompt: some processors don't count places to find out whose picture
            # it is
            given["images"] = [
                [picture.convert("RGB") for picture in one] if clip is None else []
                for one, clip in zip(shown, clips, strict=True)
            ]
            if type(self.processor).__name__ in FLAT:
                given["images"] = [picture for one in given["images"] for picture in one]
        given |= asked(self.processor)
        batch = self.processor(**given, text=texts, padding=True, return_tensors="pt")
        for name in SURPLUS:
            batch.pop(name, None)
        return batch

    def decode(self, ids: Tensor) -> list[str]:
        """New token ids `[B, T]` -> answers."""
        answers = self.processor.batch_decode(ids, skip_special_tokens=True)
        return [str(answer).strip() for answer in answers]

    def unknown(self, text: str) -> list[str]:
        """The words of a text that the tokenizer reads as its unknown token, each once."""
        tokenizer = self.processor.tokenizer
        missing = tokenizer.unk_token_id
        if missing is None:
            return []
        words = (word for word in dict.fromkeys(text.split()) if word not in (IMAGE, VIDEO))
        return [
            word for word in words if missing in tokenizer(word, add_special_tokens=False).input_ids
        ]

    def answer_ids(self, answer: str) -> list[int]:
        """The tokens of an answer and the end of the sequence."""
        tokenizer = self.processor.tokenizer
        ids = [int(token) for token in tokenizer(answer, add_special_tokens=False).input_ids]
        end = tokenizer.eos_token_id
        return ids if end is None else [*ids, int(end)]

    @property
    def answer_values(self) -> dict[str, int]:
        """See `LoadedMllm.answer_values`."""
        return ANSWER_VALUES.get(type(self.processor).__name__, {})

    def picture(self, picture: Image) -> Image:
        """The picture as it reaches the encoder.

        One that reaches it in tiles, or as a list of patches, reaches it whole.
        """
        whole = picture.convert("RGB")
        tiles = self._pixels(whole)
        if tiles is None or len(tiles) != 1:
            return whole
        images = self.processor.image_processor
        return to_picture(tiles[0], images.image_mean, images.image_std)

    def frames(self, clip: Sequence[Image]) -> list[Image]:
        """The frames of a clip as they reach the encoder, see `picture`."""
        if not self.videos:
            return [self.picture(frame) for frame in clip]
        return seen_frames(self.processor, clip)

    def tiles(self, picture: Image) -> list[Box]:
        """Which parts of the picture the encoder sees one by one, in order; the whole among them.

        They are read from what the processor makes of a picture that shows its own coordinates, so
        no family's way of cutting has to be known.
        """
        tiles = self._pixels(coordinates(*picture.size))
        if tiles is None or len(tiles) == 1:
            return [WHOLE]
        images = self.processor.image_processor
        return [seen_box(to_picture(tile, images.image_mean, images.image_std)) for tile in tiles]

    def _pixels(self, picture: Image) -> Sequence[Tensor] | None:
        """Tiles `[3, H, W]` of a picture; None where the encoder gets a list of patches."""
        made = self.processor.image_processor(images=[picture], return_tensors="pt")
        pixels: Tensor = next(value for name, value in made.items() if name.startswith(PIXELS))
        if SHAPES in made:
            pairs = zip(pixels, made[SHAPES].tolist(), strict=True)
            return [unpatched(patches, rows, columns) for patches, (rows, columns) in pairs]
        if SIZES in made:
            return unrolled(pixels[0], made[SIZES].tolist())
        if pixels.dim() < 4:
            return None
        if PARTS in made:
            return [*made[PARTS], *pixels]
        return pixels.reshape(-1, *pixels.shape[-3:]).unbind()
