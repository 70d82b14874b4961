"""Dual encoders of transformers in a local folder: CLIP, SigLIP and SigLIP 2."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from tokenprune.errors import CheckpointError, UnsupportedModelError
from tokenprune.interface.loading import LoadedDual, LoadOptions
from tokenprune_adapters.loaders.checkpoints import hash_files, hash_named
from tokenprune_adapters.loaders.dual_pictures import PatchPictures, SizedPictures
from tokenprune_adapters.loaders.folders import (
    backends,
    config_files,
    load_model,
    load_processor,
)
from tokenprune_adapters.transformers import dual_names, vit_names

if TYPE_CHECKING:
    from PIL.Image import Image

#: Classes by `model_type`. Checkpoints of SigLIP 2 with a fixed resolution are `siglip`.
CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel", "siglip2": "Siglip2Model"}

#: Texts of one call of the text tower.
TEXTS = 64


def dual_class(folder: Path) -> str | None:
    """The class of the dual encoder that the folder's config names; None if it is none.

    Raises:
        UnsupportedModelError: it is a part of a dual encoder, or a classifier made from one.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, named = CLASSES.get(config.get("model_type")), config.get("architectures")
    except (OSError, ValueError, AttributeError, TypeError):
        return None  # loading it as a model says what is wrong
    if kind is not None and named and kind not in named:
        raise UnsupportedModelError(
            f"the folder holds a {named[0]}, which has no towers for pictures and texts.",
            where=str(folder),
            remedy=f"Pass the folder of a {kind}; for classifiers, timm:NAME.",
        )
    return kind


def load_dual(
    name: str, folder: Path, files: Sequence[Path], class_name: str, options: LoadOptions
) -> LoadedDual:
    """Load both towers and the processor.

    Args:
        name: what the user called it.
        folder: where it lies.
        files: its weights.
        class_name: of transformers.
        options: device and dtype.

    Raises:
        UnsupportedModelError: the vision part has no pooled embedding.
        CheckpointError: weights or processor files are missing, damaged or misshapen.
    """
    model = load_model(folder, options, class_name)
    if not dual_names.pools(model):
        raise UnsupportedModelError(
            "the vision part has no pooling head, so pictures have no embedding.",
            where=str(folder),
            remedy="Pass a checkpoint with vision_use_head: true.",
        )
    processor = _whole(load_processor(folder), folder)
    patches = vit_names.takes_patches(vit_names.vision_module(model))
    pictures = (PatchPictures if patches else SizedPictures)(processor.image_processor)

    def prepare(shown: Sequence[Image]) -> dict[str, Any]:
        inputs = {key: value.to(options.device) for key, value in pictures.inputs(shown).items()}
        return {**inputs, "pixel_values": inputs["pixel_values"].to(options.dtype)}

    return LoadedDual(
        name=name,
        model=model,
        prepare=prepare,
        embed=_embedded,
        texts=partial(_texts, model, processor.tokenizer, class_name),
        picture=pictures.seen,
        fingerprint=lambda: hash_files(files),
        weights=", ".join(file.name for file in files),
        configs=hash_named(config_files(folder)),
        backends=backends(model),
    )


def text_inputs(tokenizer: Any, class_name: str, length: int, texts: Sequence[str]) -> Any:
    """Token ids as the text tower was trained on; longer texts are cut.

    CLIP pads to the longest text and masks it. SigLIP reads its embedding off the last place, be it
    padding: texts are lower-cased (SigLIP 2, arXiv 2502.14786, section 2.1), padded on the right to
    the full length, and nothing is masked.

    Args:
        tokenizer: of the checkpoint.
        class_name: of transformers.
        length: tokens of a text at most.
        texts: the texts.
    """
    given = {"truncation": True, "max_length": length, "return_tensors": "pt"}
    if class_name == CLASSES["clip"]:
        found = tokenizer(list(texts), padding=True, **given)
        return {key: found[key] for key in ("input_ids", "attention_mask")}
    lowered = [text.lower() for text in texts]
    found = tokenizer(lowered, padding="max_length", padding_side="right", **given)
    return {"input_ids": found["input_ids"]}


def _texts(model: nn.Module, tokenizer: Any, class_name: str, texts: Sequence[str]) -> Tensor:
    device = next(model.parameters()).device
    length = dual_names.text_length(model)
    parts = []
    with torch.no_grad():
        for start in range(0, len(texts), TEXTS):
            inputs = text_inputs(tokenizer, class_name, length, texts[start : start + TEXTS])
            placed = {key: value.to(device) for key, value in inputs.items()}
            parts.append(normalize(dual_names.text_features(model, placed).float(), dim=-1))
    return torch.cat(parts)


def _embedded(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    return normalize(dual_names.image_features(model, inputs).float(), dim=-1)


def _whole(processor: Any, folder: Path) -> Any:
    for part in ("image_processor", "tokenizer"):
        if not hasattr(processor, part):
            raise CheckpointError(
                f"the processor has no {part.replace('_', ' ')}.",
                where=str(folder),
                remedy="Save the checkpoint's own processor into the folder.",
            )
    return processor
