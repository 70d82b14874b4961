"""Tensors that the library makes say where: `torch.set_default_device` is for the user's own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("tokenprune/engine", "tokenprune/interface", "tokenprune/ops", "adapters", "strategies")
FACTORIES = {
    "arange", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "randperm",
    "tensor", "zeros",
}  # fmt: skip
#: Parameters and inputs of models follow the default, as torch's own modules do.
MODELS = {"covipal/module.py", "vistog/grouping.py", "transformers/tiny.py"}


def factories(source: str) -> Iterator[ast.Call]:
    """Calls of torch's factories without a device."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        of, name = node.func.value, node.func.attr
        ours = isinstance(of, ast.Name) and of.id == "torch" and name in FACTORIES
        if ours and "device" not in {keyword.arg for keyword in node.keywords}:
            yield node


def test_every_factory_says_where() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)}"
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        if "/".join(path.parts[-2:]) not in MODELS and "vllm" not in path.parts
        for call in factories(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_a_factory_without_a_device_is_found() -> None:
    assert [call.lineno for call in factories("import torch\ntorch.ones(2)")] == [2]
    assert list(factories("torch.ones(2, device='cpu'); numpy.ones(2)")) == []
