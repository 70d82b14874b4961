"""Encoder time, dense against pruned at equal kept counts, beside the FLOPs ratio.

    python -m benchmarks.encoders --out benchmarks/records/encoders.json

Random weights are fine: time doesn't depend on them. Dense and pruned runs alternate in one
process and every figure is a ratio within that run, because machines are noisy. `achieved` is
the measured speed-up over the one that the FLOPs ratio promises.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import tokenprune
from tokenprune.lab.measure.environment import describe_environment
from tokenprune.ops.flops import count_flops

console = Console()


@dataclass(frozen=True)
class Encoder:
    """An encoder shape: how to build it, its input size, and the kept count compared at."""

    name: str
    build: Callable[[], nn.Module]
    pixels: int
    patches: int
    keep: int


def vit_b16() -> nn.Module:
    """ViT-B/16 of timm at 224 px, random weights."""
    import timm

    model: nn.Module = timm.create_model("vit_base_patch16_224")
    return model


def clip_l14_336() -> nn.Module:
    """The vision tower of LLaVA-1.5: CLIP ViT-L/14 at 336 px, random weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    model: nn.Module = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
        )
    )
    return model


def siglip_so400m() -> nn.Module:
    """SigLIP so400m/14 at 384 px, random weights."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    model: nn.Module = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=27,
            num_attention_heads=16,
            image_size=384,
            patch_size=14,
        )
    )
    return model


ENCODERS = (
    Encoder("vit-b16-224", vit_b16, 224, 196, 64),
    Encoder("clip-l14-336", clip_l14_336, 336, 576, 128),
    Encoder("siglip-so400m-384", siglip_so400m, 384, 729, 64),
)
STRATEGIES = ("evoprune", "tome")


def plan_of(strategy: str, keep: int) -> tokenprune.Plan:
    """The strategy with its defaults, on the Skip schedule: all merge at the same places."""
    stage = {"at": "encoder", "strategy": strategy, "keep": keep, "schedule": "skip"}
    return tokenprune.load_plan({"schema_version": 1, "stages": [stage]})


def run_once(model: nn.Module, images: Tensor) -> float:
    """Seconds of one forward pass over images `[B, 3, h, w]`."""
    _sync(images)
    start = time.perf_counter()
    model(images)
    _sync(images)
    return time.perf_counter() - start


def flops_of(model: nn.Module, images: Tensor) -> int:
    """FLOPs of one forward pass over images `[B, 3, h, w]`, selection included."""
    with count_flops() as counter:
        model(images)
    return int(counter.total)


def compare(model: nn.Module, images: Tensor, plan: tokenprune.Plan, rounds: int) -> dict[str, Any]:
    """Dense and pruned in turn on images `[B, 3, h, w]`.

    Returns:
        Medians, the ratio pair by pair, and the ratio of FLOPs.
    """
    dense_flops = flops_of(model, images[:1])
    with tokenprune.attach(model, plan):
        pruned_flops = flops_of(model, images[:1])
    dense, pruned = [], []
    run_once(model, images)
    for _ in range(rounds):
        dense.append(run_once(model, images))
        with tokenprune.attach(model, plan) as handle:
            pruned.append(run_once(model, images))
            kept = handle.meter.tokens["encoder"]
            select = handle.meter.seconds["select"]
    ratios = [a / b for a, b in zip(dense, pruned, strict=True)]
    promised = dense_flops / pruned_flops
    speedup = statistics.median(ratios)
    return {
        "kept": kept,
        "dense_seconds": statistics.median(dense),
        "pruned_seconds": statistics.median(pruned),
        "select_share": select / pruned[-1],
        "speedup": speedup,
        "speedup_range": [min(ratios), max(ratios)],
        "flops_ratio": promised,
        "achieved": speedup / promised,
        "rounds": rounds,
    }


def measure(
    encoders: Sequence[Encoder], batches: Sequence[int], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """All rows."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    rows = []
    for encoder in encoders:
        model = encoder.build().eval().to(device=device, dtype=dtype)
        for batch in batches:
            images = torch.randn(batch, 3, encoder.pixels, encoder.pixels)
            images = images.to(device=device, dtype=dtype)
            for strategy in STRATEGIES:
                result = compare(model, images, plan_of(strategy, encoder.keep), args.rounds)
                head = {"encoder": encoder.name, "patches": encoder.patches, "batch": batch}
                rows.append({**head, "strategy": strategy, **result})
                console.print(_line(rows[-1]))
        del model
    return rows


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['encoder']} batch {row['batch']} {row['strategy']} {row['patches']} -> "
        f"{row['kept']:.0f}: {row['speedup']:.2f}x faster, FLOPs promise "
        f"{row['flops_ratio']:.2f}x, achieved {row['achieved']:.2f}"
    )


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows for people."""
    shown = Table(
        "encoder",
        "batch",
        "strategy",
        "kept",
        "speed-up",
        "FLOPs ratio",
        "achieved",
        "selection share",
    )
    for row in rows:
        shown.add_row(
            row["encoder"],
            str(row["batch"]),
            row["strategy"],
            f"{row['kept']:.0f} of {row['patches']}",
            f"{row['speedup']:.2f}",
            f"{row['flops_ratio']:.2f}",
            f"{row['achieved']:.2f}",
            f"{row['select_share']:.1%}",
        )
    return shown


def _sync(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize()


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/encoders.json"))
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--encoder", action="append", choices=[e.name for e in ENCODERS])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    chosen = [e for e in ENCODERS if args.encoder is None or e.name in args.encoder]
    with torch.inference_mode():
        rows = measure(chosen, args.batch or [1, 8], args)
    console.print(table(rows))
    record = {"schema_version": 1, "environment": describe_environment(), "rows": rows}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=2) + "\n")
    console.print(f"written to {args.out}")


if __name__ == "__main__":
    main()
