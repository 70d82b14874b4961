"""A task folder for lmms-eval, made of the built-in held-out questions about pictures.

    python -m benchmarks.lmms_eval_task --limit 100 --out DIR

The samples are those that `tokenprune compare --limit 100` asks, in the same order. lmms-eval finds
the task with `--include_path DIR --tasks tokenprune_heldout`, and needs no network for it.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from tokenprune.lab.data.builtin import QUESTIONS
from tokenprune.lab.data.pictures import heldout_questions
from tokenprune.lab.data.question import Question

NAME = "tokenprune_heldout"
SOURCES = Path(__file__).parent / "lmms_task"
FILES = (f"{NAME}.yaml", "heldout.py")


def write_task(folder: Path, questions: Sequence[Question]) -> None:
    """Write task, samples and pictures; the pictures without loss.

    Args:
        folder: made if it isn't there.
        questions: the samples.
    """
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(SOURCES / name, folder / name)
    lines = []
    for question in questions:
        path = pictures / f"{question.image_id:05d}.png"
        question.image.save(path)
        sample = {
            "image": path.relative_to(folder).as_posix(),
            "question": question.text,
            "answer": question.answer,
            "kind": question.kind,
            "image_id": question.image_id,
        }
        lines.append(json.dumps(sample))
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--limit", type=int, default=QUESTIONS, help="samples (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    chosen = parser.parse_args()
    write_task(chosen.out, heldout_questions(chosen.limit))
    print(f"{chosen.out}: task {NAME}, {chosen.limit} samples")


if __name__ == "__main__":
    main()
