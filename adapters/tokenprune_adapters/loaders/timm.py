"""`--model timm:NAME`: classifiers by their timm name, weights from a file or timm's own source."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tokenprune.errors import CheckpointError, UnsupportedModelError
from tokenprune.errors.installing import pip_install
from tokenprune.interface.loading import LoadedClassifier, LoadOptions
from tokenprune_adapters.loaders.checkpoints import hash_files, load_strictly, to_picture

if TYPE_CHECKING:
    from PIL.Image import Image

PREFIX = "timm:"


class TimmLoader:
    """Loads timm classifiers; the input transform is the one their configuration names."""

    scheme = "timm"
    usage = "timm:NAME"
    kinds = ("classifier",)

    def load(self, target: str, options: LoadOptions) -> LoadedClassifier:
        """Create the model of that timm name and load its weights strictly.

        Raises:
            UnsupportedModelError: timm is not installed or has no model of that name.
            CheckpointError: the weights can't be had, are damaged or of another model.
        """
        timm = _timm(f"{PREFIX}{target}")
        model = _create(timm, target, options.weights)
        model.eval().to(options.device, options.dtype)
        config = timm.data.resolve_model_data_config(model)
        transform = timm.data.create_transform(**config, is_training=False)

        def pixels(pictures: Sequence[Image]) -> Tensor:
            batch = torch.stack([transform(picture.convert("RGB")) for picture in pictures])
            return batch.to(options.device, options.dtype)

        def seen(picture: Image) -> Image:
            return to_picture(transform(picture.convert("RGB")), config["mean"], config["std"])

        return LoadedClassifier(
            name=f"{PREFIX}{target}",
            model=model,
            prepare=pixels,
            picture=seen,
            classes=_classes(model),
            fingerprint=_fingerprint(model, options.weights),
            weights=options.weights.name if options.weights else "timm's pretrained weights",
        )


def _timm(spec: str) -> Any:
    try:
        import timm
        import timm.data
    except ImportError as error:
        raise UnsupportedModelError(
            f"timm can't be imported ({error}).",
            where=spec,
            remedy=f"Install it: {pip_install('timm')}.",
        ) from error
    return timm


def _create(timm: Any, name: str, weights: Path | None) -> nn.Module:
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0][:8]}*")[:3]
        hint = f"Did you mean {', '.join(near)}?" if near else "See timm.list_models()."
        raise UnsupportedModelError(
            f"timm has no model '{name}'.", where=f"{PREFIX}{name}", remedy=hint
        )
    if weights is not None:
        model: nn.Module = timm.create_model(name, pretrained=False)
        load_strictly(model, weights)
        return model
    try:
        loaded: nn.Module = timm.create_model(name, pretrained=True)
        return loaded
    except Exception as error:
        # offline hubs, unknown tags and absent weights raise a different class each
        raise CheckpointError(
            f"timm can't provide pretrained weights ({type(error).__name__}).",
            where=f"{PREFIX}{name}",
            remedy="Pass the checkpoint: --weights FILE.safetensors.",
        ) from error


def _classes(model: Any) -> int:
    return int(model.num_classes)


def _fingerprint(model: nn.Module, weights: Path | None) -> Callable[[], str]:
    if weights is not None:
        return lambda: hash_files([weights])
    return lambda: _hash_state(model)


def _hash_state(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
