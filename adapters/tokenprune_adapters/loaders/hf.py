"""`--model FOLDER`: multimodal LLMs in the ordinary transformers format, from a local folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tokenprune.errors import CheckpointError, DataError, UnsupportedModelError
from tokenprune.loading import FOLDERS, LoadedMllm, LoadOptions
from tokenprune_adapters.loaders.checkpoints import hash_files, to_picture

if TYPE_CHECKING:
    from PIL.Image import Image

#: Attention implementations that a benchmark tries; those that aren't installed raise.
BACKENDS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")


class HfLoader:
    """Loads what `AutoModelForImageTextToText` and `AutoProcessor` load; never from a hub."""

    scheme = FOLDERS
    usage = "FOLDER (with config, safetensors weights and processor)"

    def load(self, target: str, options: LoadOptions) -> LoadedMllm:
        """Load model and processor from the folder.

        Raises:
            DataError: there is no such folder.
            UnsupportedModelError: it holds another kind of model.
            CheckpointError: its weights or processor files are missing, damaged or misshapen.
        """
        folder = Path(target)
        files = _weight_files(folder)
        model = _model(folder, options)
        prompts = Prompts(_processor(folder))

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
            backends={name: partial(model.set_attn_implementation, name) for name in BACKENDS},
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


def _weight_files(folder: Path) -> list[Path]:
    if not (folder / "config.json").is_file():
        raise DataError(
            "there is no model folder of that name with a config.json.",
            where=str(folder),
            remedy="Pass the folder that save_pretrained wrote, or timm:NAME.",
        )
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(
            "the folder holds no safetensors weights.",
            where=str(folder),
            remedy="Save the model with save_pretrained; pickled checkpoints are not read.",
        )
    return files


def _model(folder: Path, options: LoadOptions) -> Any:
    transformers = _transformers()
    try:
        with _quiet(transformers):
            model, info = transformers.AutoModelForImageTextToText.from_pretrained(
                folder,
                dtype=options.dtype,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except ValueError as error:
        if "nrecognized" not in str(error):
            raise _damaged(folder, error) from error
        raise UnsupportedModelError(
            "the folder holds no image-text-to-text model.",
            where=str(folder),
            remedy="Pass a multimodal LLM, such as a LLaVA checkpoint, or timm:NAME.",
        ) from error
    except Exception as error:
        # safetensors, json and shape problems raise a class of their own each
        raise _damaged(folder, error) from error
    _refuse_foreign(folder, info)
    return model.eval().to(options.device)


def _processor(folder: Path) -> Any:
    try:
        return _transformers().AutoProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise CheckpointError(
            f"the processor can't be loaded ({_first_line(error)}).",
            where=str(folder),
            remedy="Save the processor into the model's folder with save_pretrained.",
        ) from error


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UnsupportedModelError(
            f"transformers can't be imported ({error}).",
            remedy="Install it: pip install 'tokenprune[hf]'.",
        ) from error
    return transformers


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without transformers' own progress bars, which would break into ours."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _refuse_foreign(folder: Path, info: Any) -> None:
    # keys that are there and not used do no harm: checkpoints often carry buffers of older versions
    for kind in ("missing_keys", "mismatched_keys"):
        keys = sorted(str(key) for key in info.get(kind, ()))
        if keys:
            raise CheckpointError(
                f"the weights are not those of this model: {len(keys)} {kind.replace('_', ' ')}, "
                f"the first is {keys[0]}.",
                where=str(folder),
                remedy="Restore the checkpoint that belongs to its config.json.",
            )


def _damaged(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"the model can't be loaded ({type(error).__name__}: {_first_line(error)}).",
        where=str(folder),
        remedy="Restore a complete checkpoint in the transformers format.",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
