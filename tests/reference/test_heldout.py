from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np

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
    code = (
        "import ast, pathlib, tokenprune.reference as r;"
        "files = pathlib.Path(r.__file__).parent.glob('*.py');"
        "names = {n for f in files for node in ast.walk(ast.parse(f.read_text()))"
        " for n in ([a.name for a in node.names] if isinstance(node, ast.Import)"
        " else [node.module or ''] if isinstance(node, ast.ImportFrom) else [])};"
        "print(sorted(n for n in names if n.split('.')[0] in {'torch', 'transformers', 'timm'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
