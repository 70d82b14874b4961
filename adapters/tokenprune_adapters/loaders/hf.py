"""`--model FOLDER`: models in the ordinary transformers format, from a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tokenprune.interface.loading import LoadedDual, LoadedMllm, LoadOptions
from tokenprune.lab.models import FOLDERS
from tokenprune_adapters.loaders.checkpoints import hash_files, to_picture
from tokenprune_adapters.loaders.dual import dual_class, load_dual
from tokenprune_adapters.loaders.folders import backends, load_model, load_processor, weight_files

if TYPE_CHECKING:
    from PIL.Image import Image


class HfLoader:
    """Multimodal LLMs as `AutoModelForImageTextToText` loads them, and dual encoders."""

    scheme = FOLDERS
    usage = "FOLDER (with config, safetensors weights and processor)"

    def load(self, target: str, options: LoadOptions) -> LoadedMllm | LoadedDual:
        """Load model and processor from the folder, whose config says which kind it is.

        Raises:
            DataError: there is no such folder.
            UnsupportedModelError: it holds another kind of model.
            CheckpointError: its weights or processor files are missing, damaged or misshapen.
        """
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
        )


class Prompts:
    """Questions and pictures to inputs, with the processor's chat template if it has one."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        processor.tokenizer.padding_side = "left"

    def text(self, question: str, images: int = 1) -> str:
        """The prompt of one question about a picture, or about several in order."""
        if not getattr(self.processor, "chat_template", None):
            return f"{self.processor.image_token * images}{question}"
        parts = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": question}]
        turns = [{"role": "user", "content": parts}]
        return str(self.processor.apply_chat_template(turns, add_generation_prompt=True))

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

    def picture(self, picture: Image) -> Image:
        """The picture as it reaches the encoder."""
        images = self.processor.image_processor
        pixels = images(images=[picture.convert("RGB")], return_tensors="pt")["pixel_values"][0]
        return to_picture(pixels, images.image_mean, images.image_std)
