"""The engine spells no argument of a model library, in code or in words: adapters do.

A renamed argument is then mended in one module beside the adapter, and models of other libraries
can be served.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tokenprune.engine

WORDS = frozenset(
    {
        "attention_mask",
        "encoder_hidden_states",
        "generation_config",
        "hidden_states",
        "image_grid_thw",
        "image_hidden_states",
        "image_sizes",
        "input_ids",
        "inputs_embeds",
        "last_hidden_state",
        "logits_to_keep",
        "mm_encoder_outputs",
        "mm_token_type_ids",
        "output_attentions",
        "output_hidden_states",
        "past_key_values",
        "pixel_attention_mask",
        "pixel_values",
        "pixel_values_videos",
        "pooler_output",
        "position_embeddings",
        "position_ids",
        "return_dict",
        "token_type_ids",
        "use_cache",
        "vision_feature_layer",
        "vision_feature_select_strategy",
    }
)
"""Names that mean nothing but a library's argument, setting or output: they stand nowhere."""

COMMON = frozenset({"cache", "labels"})
"""Arguments that are also plain English: no string is just this word, as in `kwargs["cache"]`."""

_WORD = re.compile(r"\w+")
ENGINE = sorted(Path(tokenprune.engine.__file__).parent.rglob("*.py"))


def library_words(source: str) -> Iterator[tuple[int, str]]:
    """Line and word of every name of a library in a module."""
    for node in ast.walk(ast.parse(source)):
        for text in spelt(node):
            if text in COMMON and isinstance(node, ast.Constant):
                yield node.lineno, text
            for word in _WORD.findall(text):
                if word in WORDS:
                    yield getattr(node, "lineno", 0), word


def spelt(node: ast.AST) -> Iterator[str]:
    """What a node spells: a string, a name, an attribute, a keyword, a parameter."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for field in ("id", "attr", "arg", "name"):
        name = getattr(node, field, None)
        if isinstance(name, str):
            yield name


@pytest.mark.parametrize("file", ENGINE, ids=lambda file: file.stem)
def test_the_engine_spells_no_argument_of_a_library(file: Path) -> None:
    assert list(library_words(file.read_text(encoding="utf-8"))) == []


def test_every_way_to_spell_one_is_found() -> None:
    ways = [
        'kwargs["position_ids"]',
        'kwargs["cache"]',
        "outputs.last_hidden_state",
        "model(use_cache=False)",
        "def f(input_ids): ...",
        "pixel_values = 3",
        'f"Pass {1} with pixel_values."',
        'def f():\n    """Reads `attention_mask` here."""',
        "model(**{'labels': 3})",
    ]
    assert all(list(library_words(way)) for way in ways)
    ours = ["call.cache", "call.labels", "def f(cache): ...", '"the KV cache of all labels"']
    assert not any(list(library_words(one)) for one in ours)


def test_the_engine_was_read() -> None:
    assert {"runner", "layout", "model"} <= {file.stem for file in ENGINE}
