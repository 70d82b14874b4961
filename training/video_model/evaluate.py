"""Measure an exported video model on the held-out clips and write the record.

`python -m training.video_model.evaluate [FOLDER] [--log TRAINING_LOG] [--record FILE]`
"""

from __future__ import annotations

import argparse
import re
from collections import Counter, defaultdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator
from transformers import AutoProcessor, LlavaForConditionalGeneration

from tokenprune.lab.measure.environment import describe_environment
from tokenprune.reference import (
    CLIP_TYPES,
    FRAMES,
    ask_clip,
    heldout_clips,
    sample_clip,
    video_model_path,
)
from tokenprune.reference.clip_heldout import CLIP_HELDOUT_SEED, HELDOUT_CLIPS, heldout_questions
from training.shared.asking import Tally, load_weights, percents, standard_error
from training.shared.writing import write_record
from training.video_model.measure import (
    CHANGES,
    CHOOSERS,
    all_patches,
    blank,
    clip_pages,
    say,
    see,
)
from training.video_model.train import REPLAYS, STAGES
from training.video_model.vocab import WORDS

#: Tokens kept of every frame.
KEPT = (32, 16, 8)
RECORD = Path("benchmarks/records/video_model.json")

Scores = dict[str, float]


def measure(folder: str, clips: int) -> tuple[dict[str, Any], list[str]]:
    """Dense, changed and thinned accuracy from one pass over the clips, and the dense answers."""
    w, generator = load_weights(folder), Generator().manual_seed(0)
    grey = blank(w)
    tally = partial(Tally, CLIP_TYPES)
    dense = tally()
    changed: dict[str, Tally] = defaultdict(tally)
    thinned: dict[tuple[str, str, int], Tally] = defaultdict(tally)
    answers: list[str] = []
    for page in clip_pages(clips):
        seen, everything = see(w, page.frames), all_patches(page)
        said = say(w, page, seen.patches, everything, compact=False)
        dense.add(said == page.answer, page)
        answers += [WORDS[word] for word in said[page.answer >= 0].tolist()]
        blanked = say(w, page, grey.expand_as(seen.patches), everything, compact=False)
        changed["frames blanked"].add(blanked == page.answer, page)
        by_clip = seen.patches.view(-1, FRAMES, *seen.patches.shape[1:])
        for name, change in CHANGES.items():
            other = change(by_clip).flatten(0, 1)
            said = say(w, page, other, everything, compact=False)
            changed[name].add(said == page.answer, page)
        for (name, choose), count in product(CHOOSERS.items(), KEPT):
            keep = choose(seen, count, generator)
            for compact in (False, True):
                positions = "compact" if compact else "original"
                said = say(w, page, seen.patches, keep, compact)
                thinned[name, positions, count].add(said == page.answer, page)
    table: dict[str, dict[str, dict[str, Scores]]] = {}
    for (name, positions, count), found in thinned.items():
        table.setdefault(positions, {}).setdefault(name, {})[str(count)] = found.summary()
    scores = {
        "questions": {"all": int(dense.asked.sum()), **dense.questions()},
        "dense": dense.summary(),
        "changed": {name: found.summary() for name, found in changed.items()},
        "selection": table,
    }
    return scores, answers


@torch.no_grad()
def generated(folder: str, questions: int) -> tuple[float, list[str]]:
    """Accuracy in percent and the answers of `generate` with the processor, two at a time."""
    model: Any = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor: Any = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "left"
    samples, said = heldout_clips(questions), list[str]()
    for start in range(0, len(samples), 2):
        pair = samples[start : start + 2]
        parts = [{"type": "image"}] * len(pair[0].frames)
        texts = [
            processor.apply_chat_template(
                [{"role": "user", "content": [*parts, {"type": "text", "text": s.question}]}]
            )
            for s in pair
        ]
        frames = [frame for sample in pair for frame in sample.frames]
        inputs = processor(images=frames, text=texts, padding=True, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=2, do_sample=False)
        new = ids[:, inputs["input_ids"].shape[1] :]
        said += [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
    return agreement(said, [sample.answer for sample in samples]), said


def agreement(said: list[str], wanted: list[str]) -> float:
    """Percent of equal answers."""
    return round(100.0 * sum(map(str.__eq__, said, wanted)) / len(wanted), 2)


def text_only_guess(clips: int, drawn: int = 30_000) -> Scores:
    """Accuracy of the answer most frequent for the same question in clips of another seed."""
    rng = np.random.default_rng([0, 3])
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for _ in range(drawn):
        for question in ask_clip(sample_clip(rng), rng):
            seen[question.text][question.answer] += 1
    hits: dict[str, list[bool]] = {name: [] for name in ("all", *CLIP_TYPES)}
    for clip_id in range(clips):
        for question in heldout_questions(clip_id):
            hit = seen[question.text].most_common(1)[0][0] == question.answer
            hits["all"].append(hit)
            hits[question.kind].append(hit)
    return percents(hits)


def curve(log: Path) -> list[dict[str, float | str]]:
    """Means that training wrote to its log, one entry a line."""
    entries: list[dict[str, float | str]] = []
    for line in log.read_text().splitlines():
        found = re.search(r" ([a-z]+) (\d+)/\d+ ([\d.]+) clips/s (.*)", line)
        if found:
            words = found[4].split()
            values = dict(zip(words[::2], map(float, words[1::2]), strict=True))
            rate = float(found[3])
            entries.append(
                {"stage": found[1], "step": int(found[2]), "clips_per_second": rate, **values}
            )
    return entries


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default=str(video_model_path()))
    parser.add_argument("--clips", type=int, default=HELDOUT_CLIPS)
    parser.add_argument("--generate", type=int, default=60, help="questions for generate")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--record", type=Path, default=RECORD)
    options = parser.parse_args()
    torch.set_num_threads(1)
    scores, answers = measure(options.folder, options.clips)
    through_generate, said = generated(options.folder, min(options.generate, len(answers)))
    weights = Path(options.folder) / "model.safetensors"
    record = {
        "schema_version": 1,
        "subject": "video model",
        "held_out": {"seed": CLIP_HELDOUT_SEED, "clips": options.clips, "frames": FRAMES},
        "megabytes": round(weights.stat().st_size / 1e6, 2),
        "recipe": {
            "replays": REPLAYS,
            "stages": {
                s.name: {"steps": s.taken, "clips": s.data.clips, "questions": s.data.questions}
                for s in STAGES
            },
        },
        **scores,
        "standard_error": standard_error(scores["dense"]["all"], scores["questions"]["all"]),
        "text_only_guess": text_only_guess(options.clips),
        "generate": {
            "questions": len(said),
            "all": through_generate,
            "same_as_training_forward": agreement(said, answers[: len(said)]),
        },
        "training": curve(options.log) if options.log else [],
        "environment": describe_environment(),
    }
    write_record(options.record, record)


if __name__ == "__main__":
    main()
