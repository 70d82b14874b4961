"""`--model FOLDER`: models in the ordinary transformers format, from a folder or the hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tokenprune.errors import DataError
from tokenprune.interface.loading import LoadedDual, LoadedMllm, LoadOptions
from tokenprune.lab.models import FOLDERS
from tokenprune_adapters.loaders.checkpoints import hash_files, hash_named
from tokenprune_adapters.loaders.dual import dual_class, load_dual
from tokenprune_adapters.loaders.folders import (
    backends,
    config_files,
    load_model,
    load_processor,
    weight_files,
)
from tokenprune_adapters.loaders.hub import checkpoint_folder
from tokenprune_adapters.loaders.prompts import Prompts

if TYPE_CHECKING:
    from PIL.Image import Image


class HfLoader:
    """Multimodal LLMs as `AutoModelForImageTextToText` loads them, and dual encoders."""

    scheme = FOLDERS
    usage = "FOLDER (with config, safetensors weights and processor), OWNER/NAME on the hub"

    def load(self, target: str, options: LoadOptions) -> LoadedMllm | LoadedDual:
        """Load model and processor from the folder, whose config says which kind it is.

        A name on the hub is read from the hub's cache, and fetched first if it isn't there.

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
        folder = checkpoint_folder(target)
        files, configs = weight_files(folder), hash_named(config_files(folder))
        class_name = dual_class(folder)
        if class_name is not None:
            return load_dual(target, folder, files, class_name, options)
        model = load_model(folder, options)
        prompts = Prompts(load_processor(folder))

        def prepare(
            pictures: Sequence[Image | Sequence[Image]], questions: Sequence[str]
        ) -> dict[str, Any]:
            return dict(prompts.batch(pictures, questions).to(options.device, options.dtype))

        return LoadedMllm(
            name=target,
            model=model,
            prepare=prepare,
            decode=prompts.decode,
            picture=prompts.picture,
            frames=prompts.frames,
            videos=prompts.videos,
            tiles=prompts.tiles,
            answer_values=prompts.answer_values,
            fingerprint=lambda: hash_files(files),
            weights=", ".join(file.name for file in files),
            configs=configs,
            backends=backends(model),
            answer_ids=prompts.answer_ids,
            unknown=prompts.unknown,
        )
