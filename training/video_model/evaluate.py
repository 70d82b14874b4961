"""Measure an exported video model on the held-out clips and write the record.

`python -m training.video_model.evaluate [FOLDER] [--log TRAINING_LOG] [--record FILE]`
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Generator
from transformers import AutoProcessor, LlavaForConditionalGeneration

from tokenprune.environment import describe_environment
from tokenprune.reference import heldout_clips, video_model_path
from training.video_model.measure import (
    CHANGES,
    CHOOSERS,
    Tally,
    all_patches,
    ask,
    clip_pages,
    load_weights,
    see,
)
from training.video_model.train import CLIPS, QUESTIONS, REPLAYS, STEPS

#: Tokens kept of every frame.
KEPT = (32, 16, 8)
RECORD = Path("benchmarks/records/video_model.json")


def measure(folder: str, clips: int) -> dict[str, Any]:
    """Dense, changed and thinned accuracy, all from one pass over the clips."""
    w, generator = load_weights(folder), Generator().manual_seed(0)
    tallies: dict[str, Tally] = {}
    for page in clip_pages(clips):
        seen, everything = see(w, page.frames), all_patches(page)
        for compact in (False, True):
            name = "dense, compact positions" if compact else "dense"
            tallies.setdefault(name, Tally()).add(ask(w, page, seen, everything, compact), page)
        for name, change in CHANGES.items():
            other = see(w, change(page.frames))
            tallies.setdefault(name, Tally()).add(ask(w, page, other, everything, False), page)
        for name, choose in CHOOSERS.items():
            for count in KEPT:
                keep = choose(seen, count, generator)
                tally = tallies.setdefault(f"{name} {count}", Tally())
                tally.add(ask(w, page, seen, keep, False), page)
    asked = tallies["dense"].asked
    return {
        "questions": int(asked.sum()),
        "accuracy": {name: tally.summary() for name, tally in tallies.items()},
    }


@torch.no_grad()
def generated(folder: str, questions: int) -> float:
    """Accuracy in percent of the model's own `generate` with its processor, two at a time."""
    model: Any = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor: Any = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "left"
    samples, right = heldout_clips(questions), 0
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
        answers = processor.batch_decode(new, skip_special_tokens=True)
        right += sum(a.strip() == s.answer for a, s in zip(answers, pair, strict=True))
    return round(100.0 * right / len(samples), 2)


def curve(log: Path) -> list[dict[str, float]]:
    """Means that training wrote to its log, one entry a line."""
    entries = []
    for line in log.read_text().splitlines():
        found = re.search(r" (\d+)/\d+ ([\d.]+) clips/s (.*)", line)
        if found:
            words = found[3].split()
            values = dict(zip(words[::2], map(float, words[1::2]), strict=True))
            entries.append({"step": float(found[1]), "clips_per_second": float(found[2]), **values})
    return entries


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default=str(video_model_path()))
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--generate", type=int, default=60, help="questions for generate")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--record", type=Path, default=RECORD)
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = sum(file.stat().st_size for file in Path(options.folder).iterdir())
    record = {
        "environment": describe_environment(),
        "recipe": {"steps": STEPS, "clips": CLIPS, "questions": QUESTIONS, "replays": REPLAYS},
        "bytes": size,
        "heldout": measure(options.folder, options.clips),
        "generate": {
            "questions": options.generate,
            "accuracy": generated(options.folder, options.generate),
        },
        "training": curve(options.log) if options.log else [],
    }
    options.record.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["heldout"], indent=1), record["generate"])


if __name__ == "__main__":
    main()
