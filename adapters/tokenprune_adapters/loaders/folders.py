"""What all loaders of transformers folders do: files, weights and processor, never from a hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tokenprune.errors import CheckpointError, DataError, UnsupportedModelError
from tokenprune.errors.files import TEXT_BYTES, check_file, reason
from tokenprune.errors.installing import pip_install
from tokenprune.errors.words import first_line
from tokenprune.interface.loading import LoadOptions

#: Multimodal LLMs, by whatever class their config names.
MLLM_CLASS = "AutoModelForImageTextToText"

#: Endings of the files that transformers reads in a folder.
READ = frozenset((".safetensors", ".json", ".txt", ".model", ".jinja"))

#: Attention implementations that a benchmark tries; those that aren't installed raise.
BACKENDS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")


def weight_files(folder: Path) -> list[Path]:
    """The folder's weights, in order.

    Raises:
        DataError: there is no such folder.
        CheckpointError: it has no safetensors.
    """
    if not (folder / "config.json").is_file():
        raise DataError(
            "there is no model folder of that name with a config.json.",
            where=str(folder),
            remedy="Pass the folder that save_pretrained wrote, or timm:NAME.",
        )
    check_files(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(
            "the folder holds no safetensors weights.",
            where=str(folder),
            remedy="Save the model with save_pretrained; pickled checkpoints are not read.",
        )
    return files


def config_files(folder: Path) -> list[Path]:
    """What transformers reads in a folder beside the weights: configs, processor, tokenizer."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix in READ - {".safetensors"} and path.is_file()
    )


def check_files(folder: Path) -> None:
    """Refuse a folder with files that can't be read to their end, before anything opens them.

    Args:
        folder: of a model; its subfolders aren't read.

    Raises:
        CheckpointError: naming the first pipe, device or endless file.
    """
    for path in sorted(folder.iterdir()):
        if path.suffix in READ and not path.is_dir():
            try:
                check_file(path, None if path.suffix == ".safetensors" else TEXT_BYTES)
            except OSError as error:
                raise CheckpointError(
                    f"the file can't be read ({reason(error)}).",
                    where=str(path),
                    remedy="Restore the folder that save_pretrained wrote.",
                ) from error


def load_model(folder: Path, options: LoadOptions, class_name: str = MLLM_CLASS) -> Any:
    """A model in eval mode on its device.

    Args:
        folder: with config and safetensors.
        options: device and dtype.
        class_name: of transformers, with `from_pretrained`.

    Raises:
        UnsupportedModelError: the config is of another kind of model, or of one that the library
            doesn't have.
        CheckpointError: weights are missing, damaged or misshapen.
    """
    transformers = _transformers()
    try:
        with _quiet(transformers):
            chosen = {"config": _config(folder)} if class_name == MLLM_CLASS else {}
            model, info = getattr(transformers, class_name).from_pretrained(
                folder,
                dtype=options.dtype,
                local_files_only=True,
                # without, transformers asks on the terminal whether code of the folder may run
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **chosen,
            )
    except ValueError as error:
        if "not recognize" in str(error) or "trust_remote_code" in str(error):
            raise UnsupportedModelError(
                f"transformers {transformers.__version__} has no model of this config's type.",
                where=str(folder),
                remedy="Install a release that has it, or a plugin that registers its classes "
                "(AutoConfig.register, AutoModelForImageTextToText.register); code beside a "
                "checkpoint isn't run.",
            ) from error
        if "nrecognized" not in str(error):
            raise _damaged(folder, error) from error
        raise UnsupportedModelError(
            "the folder holds no image-text-to-text model.",
            where=str(folder),
            remedy="Pass a multimodal LLM, such as a LLaVA checkpoint, a dual encoder (CLIP, "
            "SigLIP), or timm:NAME.",
        ) from error
    except Exception as error:
        # safetensors, json and shape problems raise a class of their own each
        raise _damaged(folder, error) from error
    _refuse_foreign(folder, info)
    return model.eval().to(options.device)


def _config(folder: Path) -> Any:
    found = _transformers().AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    return mllm_config(found)


def mllm_config(whole: Any) -> Any:
    """The config of a multimodal LLM, which may be a part of a model that also speaks.

    The part's own class finds its weights among those of the whole.

    Args:
        whole: config of a checkpoint.
    """
    known = _transformers().MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    if type(whole) in known:
        return whole
    parts = (getattr(whole, name, None) for name in whole.sub_configs)
    return next((part for part in parts if type(part) in known), whole)


def load_processor(folder: Path) -> Any:
    """The processor.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    return _saved(folder, "AutoProcessor", "processor")


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    return _saved(folder, "AutoTokenizer", "tokenizer")


def _saved(folder: Path, kind: str, called: str) -> Any:
    """What one of the library's `Auto` classes loads beside a model."""
    try:
        return getattr(_transformers(), kind).from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise CheckpointError(
            f"the {called} can't be loaded ({first_line(error)}).",
            where=str(folder),
            remedy=f"Save the checkpoint's own {called} into its folder with save_pretrained.",
        ) from error


def backends(model: Any) -> dict[str, Callable[[], None]]:
    """What switches the model to each attention implementation."""
    return {name: partial(model.set_attn_implementation, name) for name in BACKENDS}


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UnsupportedModelError(
            f"transformers can't be imported ({error}).",
            remedy=f"Install it: {pip_install('hf')}.",
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
        f"the model can't be loaded ({type(error).__name__}: {first_line(error)}).",
        where=str(folder),
        remedy="Restore a complete checkpoint in the transformers format.",
    )
