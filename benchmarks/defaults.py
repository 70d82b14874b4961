"""Choose what EvoPrune's paper leaves open on one half of the pictures, report the other half.

    python -m benchmarks.defaults --images DIR --labels CSV --weights FILE

Every variant changes one parameter of the base (or is a named combination) and runs at every
budget on all pictures; the record holds the answers of both halves apart, so that a choice made
on `choose` can be read off on `report`. Even rows of the label file are `choose`, odd ones
`report`.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

import tokenprune
from tokenprune.environment import describe_environment

console = Console()
NAME = "vit_tiny_patch16_224"

BASE: dict[str, Any] = {"proportional_attention": True}
ABLATIONS: dict[str, dict[str, Any]] = {
    "evoprune": {},
    "without attention": {"attention": False},
    "without diversity": {"diversity_weight": 0.0},
    "similarity only": {"attention": False, "diversity_weight": 0.0},
}
VARIANTS: dict[str, dict[str, Any]] = {
    **ABLATIONS,
    "proportional off": {"proportional_attention": False},
    "metric keys": {"metric": "keys"},
    "K 4": {"neighbours": 4},
    "K 16": {"neighbours": 16},
    "tau 0.5": {"tau": 0.5},
    "tau 2": {"tau": 2.0},
    "tau auto": {"tau": "auto"},
    "lambda 0.25": {"diversity_weight": 0.25},
    "lambda 0.5": {"diversity_weight": 0.5},
    "lambda 2": {"diversity_weight": 2.0},
    "CTR 0.1": {"critical_token_ratio": 0.1},
    "CTR 0.5": {"critical_token_ratio": 0.5},
    "importance cls": {"importance": "cls"},
    "partition all": {"partition": "all"},
    "plain cosine": {"similarity": "plain"},
    "unweighted mean": {"size_weighted": False},
    "lambda 0.25, keys": {"diversity_weight": 0.25, "metric": "keys"},
}


def stages() -> dict[str, dict[str, Any]]:
    """Every row of the search: an encoder stage without its budget."""
    rows: dict[str, dict[str, Any]] = {
        name: {"strategy": "evoprune", "schedule": "skip", "params": {**BASE, **change}}
        for name, change in VARIANTS.items()
    }
    rows["first block 1"] = {**rows["evoprune"], "layers": [1, 11]}
    rows["first block 2"] = {**rows["evoprune"], "layers": [2, 11]}
    rows["tome"] = {"strategy": "tome", "schedule": "skip"}
    rows["tome, every block"] = {"strategy": "tome", "schedule": "mean"}
    for name in ("random", "uniform", "fopru"):
        rows[name] = {"strategy": name, "schedule": "skip"}
    return rows


def load_model(weights: Path) -> tuple[nn.Module, Any]:
    """The picture encoder with its own preprocessing."""
    import timm
    from safetensors.torch import load_file

    model = timm.create_model(NAME).eval()
    model.load_state_dict(load_file(weights), strict=True)
    config = timm.data.resolve_model_data_config(model)
    return model, timm.data.create_transform(**config, is_training=False)


def batches(
    images: Path, labels: Path, transform: Any, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pictures `[b, 3, H, W]` and their classes `[b]`."""
    with labels.open(newline="") as file:
        rows = [list(row.values()) for row in csv.DictReader(file)]
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        pictures = [transform(Image.open(images / row[0]).convert("RGB")) for row in part]
        yield torch.stack(pictures), torch.tensor([int(row[1]) for row in part])


def predict(model: nn.Module, data: list[Tensor], stage: dict[str, Any] | None) -> Tensor:
    """Top-1 class of every picture, `[n]`; dense where `stage` is None."""
    plan = {"schema_version": 1, "stages": [{"at": "encoder", **stage}]} if stage else None
    with tokenprune.attach(model, plan) if plan else nullcontext():
        return torch.cat([model(pictures).argmax(-1) for pictures in data])


def halves(found: Tensor, truth: Tensor, dense: Tensor) -> dict[str, Any]:
    """Accuracy and agreement with dense on each half, and which pictures were right."""
    result: dict[str, Any] = {"right": (found == truth).int().tolist()}
    for offset, half in enumerate(("choose", "report")):
        mine, labels, reference = found[offset::2], truth[offset::2], dense[offset::2]
        result[half] = {
            "accuracy": (mine == labels).float().mean().item(),
            "agreement": (mine == reference).float().mean().item(),
        }
    return result


def search(args: argparse.Namespace) -> dict[str, Any]:
    """All variants at all budgets."""
    model, transform = load_model(args.weights)
    loaded = list(batches(args.images, args.labels, transform, 25))
    data = [pictures for pictures, _ in loaded]
    truth = torch.cat([labels for _, labels in loaded])
    dense = predict(model, data, None)
    rows: dict[str, dict[str, Any]] = {"dense": {"196": halves(dense, truth, dense)}}
    todo = [(name, stage, keep) for name, stage in stages().items() for keep in args.keep]
    with Progress(console=console) as progress:
        for name, stage, keep in progress.track(todo, description="variants"):
            found = predict(model, data, {**stage, "keep": keep})
            rows.setdefault(name, {})[str(keep)] = halves(found, truth, dense)
    return {"model": NAME, "pictures": len(truth), "rows": rows, "stages": stages()}


def main() -> None:
    """Search and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--keep", type=int, nargs="+", default=[147, 98, 64, 49])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/defaults.json"))
    args = parser.parse_args()
    with torch.inference_mode():
        record = search(args)
    record = {"schema_version": 1, "environment": describe_environment(), **record}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record) + "\n")
    for name, budgets in record["rows"].items():
        shown = "  ".join(
            f"{keep}: {row['choose']['accuracy']:.3f}/{row['report']['accuracy']:.3f}"
            for keep, row in budgets.items()
        )
        console.print(f"{name:22} {shown}")


if __name__ == "__main__":
    main()
