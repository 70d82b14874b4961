"""Measure an exported detail model on the held-out set and write the record.

`python -m training.detail_model.evaluate [FOLDER] [--log TRAINING_LOG] [--record FILE]`
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from tokenprune.reference import (
    DETAIL_TYPES,
    ask_detail,
    detail_model_path,
    heldout_details,
    iter_heldout_details,
    sample_detail_scene,
)
from tokenprune.reference.detail_heldout import DETAIL_HELDOUT_SEED
from tokenprune.reference.questions import SceneQuestion
from training.detail_model.measure import detail_pages, shuffled
from training.detail_model.stages import STAGES
from training.reference_model.evaluate import (
    RANDOM_DRAWS,
    environment,
    generate_accuracy,
    measure_dense,
    measure_selection,
    text_only_guess,
    training_summary,
)
from training.shared.asking import load_weights, standard_error
from training.shared.writing import write_record

#: A half, a quarter and an eighth.
KEPT = (200, 100, 50)
#: Pictures of the held-out set that are measured by default (ours).
IMAGES = 100
RECORD = Path("benchmarks/records/detail_model.json")


def training_questions(scenes: int = 2_000) -> Iterator[list[SceneQuestion]]:
    """Questions about scenes of another seed, to guess answers from without any picture."""
    for number in range(scenes):
        rng = np.random.default_rng([0, 3, number])
        yield ask_detail(sample_detail_scene(rng), rng)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=detail_model_path())
    parser.add_argument("--log", type=Path, help="log of the training run")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--generate", type=int, default=60, help="questions put to `generate`")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder, images = str(options.folder), options.images
    weights = options.folder / "model.safetensors"
    w = load_weights(folder)
    measured = measure_selection(w, detail_pages(images), DETAIL_TYPES, KEPT)
    others = (shuffled(page) for page in detail_pages(images))
    asked = heldout_details(options.generate)
    record = {
        "schema_version": 1,
        "subject": "detail model",
        "held_out": {"seed": DETAIL_HELDOUT_SEED, "images": images},
        "megabytes": round(weights.stat().st_size / 1e6, 2),
        "training": training_summary(STAGES, options.log),
        **measured,
        "other_image": measure_dense(w, others, DETAIL_TYPES),
        "standard_error": standard_error(
            measured["dense"]["all"], sum(measured["questions"].values())
        ),
        "text_only_guess": text_only_guess(
            training_questions(), iter_heldout_details(images), DETAIL_TYPES
        ),
        "generate": {"questions": len(asked), "all": generate_accuracy(folder, asked)},
        "random_draws": RANDOM_DRAWS,
        "environment": environment(),
    }
    write_record(options.record, record)


if __name__ == "__main__":
    main()
