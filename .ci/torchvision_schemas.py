"""Schemas of torchvision's operators, for environments whose torch is a CPU build.

torchvision of the package index is a CUDA build and can't load its operators there; whoever imports
it needs their schemas only. `.ci/vllm` puts this module into its environment, with a .pth file.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

libraries: list[Any] = []


class BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Defines the schemas when torchvision is first looked for; others find it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        """Find nothing; the first time that it is torchvision, define the schemas."""
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
            for schema in OPERATORS:
                library.define(schema)
            libraries.append(library)  # they go when it goes


sys.meta_path.insert(0, BeforeTorchvision())
