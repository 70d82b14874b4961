"""`--model FOLDER`: models in the ordinary transformers format, from a local folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tokenprune.errors import DataError
from tokenprune.interface.loading import LoadedDual, LoadedMllm, LoadOptions
from tokenprune.lab.models import FOLDERS
from tokenprune_adapters.loaders.checkpoints import hash_files, to_picture
from tokenprune_adapters.loaders.dual import dual_class, load_dual
from tokenprune_adapters.loaders.folders import backends, load_model, load_processor, weight_files

if TYPE_CHECKING:
    from PIL.Image import Image

#: How LLaVA's data files mark the place of a picture in a question.
IMAGE = "<image>"


class HfLoader:
    """Multimodal LLMs as `AutoModelForImageTextToText` loads them, and dual encoders."""

    scheme = FOLDERS
    usage = "FOLDER (with config, safetensors weights and processor)"

    def load(self, target: str, options: LoadOptions) -> LoadedMllm | LoadedDual:
        """Load model and processor from the folder, whose config says which kind it is.

        Raises:
            DataError: there is no such folder, or other weights are named beside it.
            UnsupportedModelError: it holds another kind of model.
            CheckpointError: its weights or processor files are missing, damaged or misshapen.
        """
        if options.weights is not None:
            raise DataError(
                "a folder brings its own weights.",
                where="--weights",
                remedy="Leave it out, or pass timm:NAME.",
            )
        folder = Path(target)
        files = weight_files(folder)
        class_name = dual_class(folder)
        if class_name is not None:
            return load_dual(target, files, class_name, options)
        model = load_model(folder, options)
        prompts = Prompts(load_processor(folder))

        def prepare(
            pictures: Sequence[Image | Sequence[Image]], questions: Sequence[str]
        ) -> dict[str, Any]:
            batch = prompts.batch(pictures, questions).to(options.device)
            batch["pixel_values"] = batch["pixel_values"].to(options.dtype)
            return dict(batch)

        return LoadedMllm(
            name=target,
            model=model,
            prepare=prepare,
            decode=prompts.decode,
            picture=prompts.picture,
            fingerprint=lambda: hash_files(files),
            weights=", ".join(file.name for file in files),
            backends=backends(model),
            answer_ids=prompts.answer_ids,
            unknown=prompts.unknown,
        )


class Prompts:
    """Questions and pictures to inputs, with the processor's chat template if it has one."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        processor.tokenizer.padding_side = "left"

    def text(self, question: str, images: int = 1) -> str:
        """The prompt of one question about a picture, or about several in order.

        `<image>` in a question, or the processor's own word for it, is the place of the picture,
        as in LLaVA's data files: once for all pictures, or once for each. Without it they stand in
        front of the question.

        Raises:
            DataError: it stands there more often or less often than there are pictures.
        """
        pieces, counts = self._placed(question, images)
        if not getattr(self.processor, "chat_template", None):
            token = self.processor.image_token
            return pieces[0] + "".join(
                token * count + text for count, text in zip(counts, pieces[1:], strict=True)
            )
        parts = [{"type": "text", "text": pieces[0]}] if pieces[0] else []
        for count, text in zip(counts, pieces[1:], strict=True):
            parts += [{"type": "image"} for _ in range(count)]
            parts += [{"type": "text", "text": text}] if text else []
        turns = [{"role": "user", "content": parts}]
        return str(self.processor.apply_chat_template(turns, add_generation_prompt=True))

    def _placed(self, question: str, images: int) -> tuple[list[str], list[int]]:
        """What stands around the pictures' places, and how many pictures stand at each."""
        words = {IMAGE, str(getattr(self.processor, "image_token", IMAGE))}
        pieces = re.split("|".join(map(re.escape, sorted(words))), question)
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

    def batch(self, pictures: Sequence[Image | Sequence[Image]], questions: Sequence[str]) -> Any:
        """Inputs of `generate`, padded on the left."""
        shown = [list(one) if isinstance(one, Sequence) else [one] for one in pictures]
        pairs = zip(questions, shown, strict=True)
        texts = [self.text(question, len(images)) for question, images in pairs]
        images = [picture.convert("RGB") for several in shown for picture in several]
        return self.processor(images=images, text=texts, padding=True, return_tensors="pt")

    def decode(self, ids: Tensor) -> list[str]:
        """New token ids `[B, T]` -> answers."""
        answers = self.processor.batch_decode(ids, skip_special_tokens=True)
        return [str(answer).strip() for answer in answers]

    def answer_ids(self, answer: str) -> list[int]:
        """The tokens of an answer and the end of the sequence."""
        tokenizer = self.processor.tokenizer
        ids = [int(token) for token in tokenizer(answer, add_special_tokens=False).input_ids]
        end = tokenizer.eos_token_id
        return ids if end is None else [*ids, int(end)]

    def unknown(self, text: str) -> list[str]:
        """The words of a text that the tokenizer reads as its unknown token, each once."""
        tokenizer = self.processor.tokenizer
        missing = tokenizer.unk_token_id
        if missing is None:
            return []
        words = (word for word in dict.fromkeys(text.split()) if word != IMAGE)
        return [
            word for word in words if missing in tokenizer(word, add_special_tokens=False).input_ids
        ]

    def picture(self, picture: Image) -> Image:
        """The picture as it reaches the encoder."""
        images = self.processor.image_processor
        pixels = images(images=[picture.convert("RGB")], return_tensors="pt")["pixel_values"][0]
        return to_picture(pixels, images.image_mean, images.image_std)
