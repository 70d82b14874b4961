"""Measure an exported model on the held-out set and write the record.

`python -m training.reference_model.evaluate [FOLDER] [--log TRAINING_LOG] [--record FILE]`
"""

from __future__ import annotations

import argparse
import platform
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import transformers
from torch import Generator
from transformers import AutoProcessor, LlavaForConditionalGeneration

from tokenprune.reference import heldout_samples, iter_heldout, reference_model_path
from tokenprune.reference.heldout import HELDOUT_IMAGES, HELDOUT_SEED
from tokenprune.reference.questions import TYPES, SceneQuestion, ask_each
from tokenprune.reference.scene import sample_scene
from training.reference_model.choose import Thin
from training.reference_model.forward import Weights
from training.reference_model.measure import CHOOSERS, Page, PictureSample, ask, pages, see
from training.reference_model.stages import STAGES
from training.shared.asking import Sample, Tally, load_weights, percents, standard_error
from training.shared.writing import write_record

KEPT = (98, 64, 32, 16, 8)
RANDOM_DRAWS = 3
INSIDE_BLOCKS = (2, 6, 10)
INSIDE_KEPT = (98, 32)
#: A seed that nothing was decided on.
FRESH_SEED = 314_159
RECORD = Path("benchmarks/records/reference_model.json")

Scores = dict[str, float]


class Sized(Protocol):
    """What a stage wants of its data."""

    @property
    def batch(self) -> int:
        """Pictures a step."""

    @property
    def questions(self) -> int:
        """Questions about each."""


class Staged(Protocol):
    """A stage of a recipe."""

    @property
    def name(self) -> str:
        """As it stands in the log."""

    @property
    def taken(self) -> int:
        """Steps that it takes."""

    @property
    def data(self) -> Sized:
        """Its data."""

    @property
    def lm(self) -> object:
        """What trains the language model; `None` where nothing is asked."""


def measure_selection(
    w: Weights, shown: Iterable[Page], types: Sequence[str], kept: Sequence[int]
) -> dict[str, Any]:
    """Dense, blanked and selected accuracy, all from one pass over the pictures.

    Args:
        w: weights.
        shown: held-out pictures with their questions.
        types: types of questions.
        kept: numbers of tokens to keep.
    """
    dense, blank = Tally(types), Tally(types)
    selected: dict[tuple[str, str, int], Tally] = {}
    generator = Generator().manual_seed(0)
    for page in shown:
        seen = see(w, page)
        dense.add(ask(w, page, seen, page.everything(), compact=False), page)
        blank.add(ask(w, page, see(w, page, blank=True), page.everything(), compact=False), page)
        for name, chooser in CHOOSERS.items():
            for count in kept:
                for _ in range(RANDOM_DRAWS if name == "random" else 1):
                    keep = chooser(page, seen, count, generator)
                    for positions in ("original", "compact"):
                        tally = selected.setdefault((name, positions, count), Tally(types))
                        right = ask(w, page, seen, keep, compact=positions == "compact")
                        tally.add(right, page)
    table: dict[str, dict[str, dict[str, Scores]]] = {}
    for (name, positions, count), tally in selected.items():
        table.setdefault(positions, {}).setdefault(name, {})[str(count)] = tally.summary()
    return {
        "questions": dense.questions(),
        "dense": dense.summary(),
        "blank_image": blank.summary(),
        "selection": table,
    }


def measure_inside(w: Weights, images: int) -> dict[str, dict[str, float]]:
    """Accuracy when a chosen subset survives one block inside the tower, dropped or averaged."""
    tallies: dict[tuple[str, int, int], Tally] = {}
    generator = Generator().manual_seed(0)
    for page in pages(images):
        whole = see(w, page)
        for block, count in product(INSIDE_BLOCKS, INSIDE_KEPT):
            for name in ("random", "object-oracle"):
                keep = CHOOSERS[name](page, whole, count, generator)
                for merge in (False, True):
                    seen = see(w, page, maps={block: Thin(keep, merge)})
                    everything = torch.arange(count).expand(len(keep), -1)
                    label = f"{name}, {'averaged' if merge else 'dropped'}"
                    tally = tallies.setdefault((label, block, count), Tally(TYPES))
                    tally.add(ask(w, page, seen, everything, compact=False), page)
    table: dict[str, dict[str, float]] = {}
    for (label, block, count), tally in tallies.items():
        table.setdefault(label, {})[f"{count} before block {block}"] = tally.summary()["all"]
    return table


def measure_dense(w: Weights, shown: Iterable[Page], types: Sequence[str]) -> Scores:
    """Accuracy with all tokens, such as on the scenes of another seed."""
    tally = Tally(types)
    for page in shown:
        tally.add(ask(w, page, see(w, page), page.everything(), compact=False), page)
    return tally.summary()


def text_only_guess(
    training: Iterable[Iterable[SceneQuestion]],
    asked: Iterable[Sample],
    types: Sequence[str],
) -> Scores:
    """Accuracy of the answer that was most frequent for the same question in training data.

    Args:
        training: questions about each of many scenes.
        asked: the held-out questions.
        types: types of questions.
    """
    seen: dict[str, Counter[str]] = {}
    for questions in training:
        for question in questions:
            seen.setdefault(question.text, Counter())[question.answer] += 1
    hits: dict[str, list[bool]] = {name: [] for name in types}
    for sample in asked:
        guess = seen.get(sample.question, Counter({"": 1})).most_common(1)[0][0]
        hits[sample.type].append(guess == sample.answer)
    every = [hit for group in hits.values() for hit in group]
    return percents({"all": every, **hits})


def _training_questions(scenes: int = 30_000) -> Iterator[list[SceneQuestion]]:
    for number in range(scenes):
        rng = np.random.default_rng([0, 3, number])
        yield ask_each(sample_scene(rng), rng)


def generate_accuracy(folder: str, samples: Sequence[PictureSample], rows: int = 20) -> float:
    """Accuracy through the processor and `generate`; the whole output must be the answer."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    right = 0
    for begin in range(0, len(samples), rows):
        part = samples[begin : begin + rows]
        inputs = processor(
            images=[sample.image for sample in part],
            text=[f"<image> {sample.question}" for sample in part],
            padding=True,
            return_tensors="pt",
        )
        output = model.generate(**inputs, max_new_tokens=3)[:, inputs["input_ids"].shape[1] :]
        said = processor.batch_decode(output, skip_special_tokens=True)
        right += sum(s.strip() == sample.answer for s, sample in zip(said, part, strict=True))
    return round(100.0 * right / len(samples), 2)


def training_summary(stages: Iterable[Staged], log: Path | None) -> list[dict[str, Any]]:
    """What each stage did: planned sizes, and the measured rate where a training log is given."""
    lines = log.read_text().splitlines() if log else []
    summary: list[dict[str, Any]] = []
    for stage in stages:
        entry: dict[str, Any] = {
            "stage": stage.name,
            "steps": stage.taken,
            "images": stage.taken * stage.data.batch,
            "questions_per_image": stage.data.questions if stage.lm else 0,
        }
        for line in lines:
            found = re.search(rf" {stage.name} {stage.taken}/\d+ ([\d.]+) img/s", line)
            if found:
                rate = float(found[1])
                entry["images_per_second"] = int(rate) if rate.is_integer() else rate
                entry["minutes"] = round(stage.taken * stage.data.batch / rate / 60, 1)
        summary.append(entry)
    return summary


def environment() -> dict[str, object]:
    """Where the numbers were made."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "device": "cpu",
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=reference_model_path())
    parser.add_argument("--log", type=Path, help="log of the training run")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--images", type=int, default=HELDOUT_IMAGES)
    parser.add_argument("--generate", type=int, default=400, help="questions put to `generate`")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = str(options.folder)
    weights = options.folder / "model.safetensors"
    w = load_weights(folder)
    measured = measure_selection(w, pages(options.images), TYPES, KEPT)
    record = {
        "schema_version": 1,
        "subject": "reference model",
        "held_out": {"seed": HELDOUT_SEED, "images": options.images},
        "megabytes": round(weights.stat().st_size / 1e6, 2),
        "training": training_summary(STAGES, options.log),
        **measured,
        "standard_error": standard_error(
            measured["dense"]["all"], sum(measured["questions"].values())
        ),
        "inside_tower": measure_inside(w, options.images),
        "fresh": {
            "seed": FRESH_SEED,
            "images": options.images,
            "dense": measure_dense(w, pages(options.images, FRESH_SEED), TYPES),
        },
        "text_only_guess": text_only_guess(
            _training_questions(), iter_heldout(options.images), TYPES
        ),
        "generate": {
            "questions": options.generate,
            "all": generate_accuracy(folder, heldout_samples(options.generate)),
        },
        "random_draws": RANDOM_DRAWS,
        "environment": environment(),
    }
    write_record(options.record, record)


if __name__ == "__main__":
    main()
