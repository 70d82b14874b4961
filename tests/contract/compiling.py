"""What tests of compiled towers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from tests import models


class Graphs(CompileCounterWithBackend):
    """Counts graphs, and has what their guards look at."""

    def __init__(self, backend: str) -> None:
        super().__init__(backend)
        self.looked_at: list[str] = []

    def all_of(self, entries: Sequence[Any]) -> list[bool]:
        """Let all guards of a graph stand, and note their names."""
        self.looked_at += [entry.name for entry in entries]
        return [True] * len(entries)


def one_graph(call: Any, backend: str = "eager") -> tuple[Callable[..., Any], Graphs]:
    """A module or method compiled without a break, and what counts its graphs."""
    graphs = Graphs(backend)
    options: dict[str, Any] = {"guard_filter_fn": graphs.all_of}
    return torch.compile(call, backend=graphs, fullgraph=True, options=options), graphs


def assert_one(graphs: Graphs) -> None:
    """Whether there is one graph, none of whose guards looks up the fields of a dataclass."""
    assert graphs.frame_count == 1
    assert graphs.looked_at
    assert [name for name in graphs.looked_at if "dataclass_fields" in name] == []


def small_llava() -> Any:
    """LLaVA with a CLIP tower of two blocks, of which it reads the first, and an LLM of a layer."""
    from transformers import CLIPVisionConfig, LlamaConfig

    vision = CLIPVisionConfig(**{**models._vision(), "num_hidden_layers": 2})
    language = LlamaConfig(**{**models._language(), "num_hidden_layers": 1})
    return models._llava(vision, language, "sdpa", vision_feature_layer=-2)


def tensors(output: Any) -> list[Tensor]:
    """Those of an output, levels of DeepStack too."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if hasattr(output, "values") else output
    return [one for value in values if value is not None for one in tensors(value)]


def assert_same(found: Any, plain: Any) -> None:
    """Whether two outputs differ by rounding only, if at all."""
    for one, other in zip(tensors(found), tensors(plain), strict=True):
        torch.testing.assert_close(one, other)
