from __future__ import annotations

import ast
import hashlib
from pathlib import Path

import numpy as np

from tokenprune import reference
from tokenprune.reference import TYPES, heldout_samples

QUESTIONS_SHA256 = "9883b9d576f27a3167a004e63569e813a8af7fa41c13fccf9f5761c1b31a6242"
MEAN_PIXEL = 124.342


def test_the_set_is_the_one_the_record_was_made_on() -> None:
    samples = heldout_samples(400)
    lines = "\n".join(f"{s.image_id} {s.type} {s.question} {s.answer}" for s in samples)
    assert hashlib.sha256(lines.encode()).hexdigest() == QUESTIONS_SHA256
    mean = np.mean([np.asarray(sample.image, dtype=np.float64).mean() for sample in samples])
    # a mean, because polygon edges may differ by a shade between drawing libraries
    assert abs(mean - MEAN_PIXEL) < 0.05


def test_a_limit_gives_the_beginning() -> None:
    few, more = heldout_samples(10), heldout_samples(25)
    assert [(s.question, s.answer) for s in few] == [(s.question, s.answer) for s in more[:10]]
    assert few[-1].image.tobytes() == more[9].image.tobytes()


def test_all_types_come() -> None:
    samples = heldout_samples(200)
    assert {sample.type for sample in samples} == set(TYPES)
    assert all(sample.cover.shape == (len(sample.scene.items), 196) for sample in samples)


def test_the_data_needs_no_model_library() -> None:
    names: set[str] = set()
    for file in Path(reference.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module or "")
    assert "numpy" in names
    assert {"torch", "transformers", "timm"}.isdisjoint(name.split(".")[0] for name in names)
