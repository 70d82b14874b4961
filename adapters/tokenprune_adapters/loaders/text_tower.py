"""CLIP's text tower, for strategies that compare visual tokens with the question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenprune.interface.loading import LoadOptions
from tokenprune.interface.text_tower import TextTower
from tokenprune_adapters.loaders.dual import CLASSES, dual_class, text_inputs
from tokenprune_adapters.loaders.folders import READ, load_model, load_tokenizer, weight_files
from tokenprune_adapters.loaders.hub import checkpoint_folder
from tokenprune_adapters.transformers import dual_names


class ClipTextTower(TextTower):
    """The text tower of a CLIPModel, with the last norm and the projection of its vision half.

    Args:
        model: the CLIPModel; its vision blocks are let go.
        tokenizer: its own.
    """

    name: ClassVar[str] = "clip"

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._length = dual_names.text_length(model)
        dual_names.drop_vision_blocks(model)

    @classmethod
    def load(cls, target: str) -> ClipTextTower | None:
        """The tower of a CLIPModel in a folder, or in the hub's cache.

        Raises:
            DataError: there is no such folder.
            CheckpointError: weights or tokenizer are missing or damaged.
            UnsupportedModelError: the folder holds one half of a CLIPModel.
        """
        folder = checkpoint_folder(target)
        weight_files(folder)
        if dual_class(folder) != CLASSES["clip"]:
            return None
        model = load_model(folder, LoadOptions(), CLASSES["clip"])
        return cls(model, load_tokenizer(folder))

    @classmethod
    def files(cls, target: str) -> list[Path]:
        """Weights, configs and tokenizer of the folder, or of that in the hub's cache.

        Raises:
            CheckpointError: a name on the hub that can't be had.
        """
        found = checkpoint_folder(target).glob("*")
        return [path for path in found if path.suffix in READ and path.is_file()]

    @property
    def width(self) -> int:
        """Channels of the vision half."""
        return dual_names.vision_width(self._model)

    @property
    def module(self) -> nn.Module:
        """The model without its vision blocks."""
        module: nn.Module = self._model
        return module

    def project(self, hidden: Tensor) -> Tensor:
        """Post layer norm and visual projection, in float32."""
        with torch.no_grad():
            return dual_names.project_patches(self._model, hidden.float())

    def encode(self, texts: Sequence[str], *, cut: bool) -> list[Tensor]:
        """Embeddings of texts; pieces follow one another without marks of their own.

        The first piece starts with the first token of a text and the last one ends with its last,
        as in CDPruner's code; what is missing of the last piece is masked.
        """
        device = next(self._model.parameters()).device
        if cut:
            given = text_inputs(self._tokenizer, CLASSES["clip"], self._length, texts)
            counts = [1] * len(texts)
        else:
            whole = [self._tokenizer(text, verbose=False)["input_ids"] for text in texts]
            counts = [-(-len(ids) // self._length) for ids in whole]
            given = self._pieces(whole, counts)
        with torch.no_grad():
            placed = {key: value.to(device) for key, value in given.items()}
            found = dual_names.text_features(self._model, placed).float()
        return list(torch.split(found, counts))

    def _pieces(self, whole: Sequence[Sequence[int]], counts: Sequence[int]) -> dict[str, Tensor]:
        """Ids of all texts in pieces `[sum of M, length]`, and what of them isn't padding."""
        rows, masks = [], []
        for ids, count in zip(whole, counts, strict=True):
            padding = [0] * (count * self._length - len(ids))
            rows.append(torch.tensor([*ids, *padding], device="cpu").view(count, self._length))
            masks.append(
                torch.tensor([1] * len(ids) + padding, device="cpu").view(count, self._length)
            )
        return {"input_ids": torch.cat(rows), "attention_mask": torch.cat(masks)}
