"""The page of measurements: a table for every record, a command for every missing one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from generators.gpu import gpu
from generators.growth import growth
from generators.markdown import MARK, Data
from generators.records import (
    comparison,
    comparison_by_type,
    defaults,
    encoders,
    environment,
    loops,
    ops,
    picture_model,
    serving,
)
from generators.speed import decoding, speed
from generators.studies import study
from generators.videos import temporal, video_model

RECORDS = Path(__file__).parents[2] / "benchmarks" / "records"

INTRO = """\
# Benchmarks

{mark}
Every number on this page comes from a record in `benchmarks/records`, written by the command that
stands beside it. Ratios are taken within one run, dense and pruned in turn, because machines and
their load differ. Nothing here is a number reported by a paper; EvoPrune's own numbers stand beside
ours under [reproduction](reproduction.md).
"""


_HALVES = (
    "Choices are made on one half of the samples; the other half is reported. Accuracy in % on the "
    "reported half, in brackets that of the half used for choosing."
)


@dataclass(frozen=True)
class Section:
    """One record: its file, a heading, what it measures, how it is made and how it is shown."""

    file: str
    title: str
    about: str
    command: str
    show: Callable[[Data], str]


SECTIONS = (
    Section(
        "detail.json",
        "Merging and dropping where detail counts",
        "EvoPrune and ToMe, which merge inside the encoder, beside `uniform` and `random` at "
        "EvoPrune's blocks, on the bundled detail model: half of its 400 tokens, a quarter and an "
        "eighth, against the dense model on the same held-out questions.",
        "tokenprune compare --plans benchmarks/plans/{evoprune,tome,uniform,random}.yaml "
        "--keep 200 100 50 --limit 400 --force --out benchmarks/records/detail.json",
        comparison_by_type,
    ),
    Section(
        "dozen.json",
        "A dozen strategies at equal mean tokens",
        "What `tokenprune compare --task image` shows: a dozen strategies on the small model, at "
        "budgets that count visual tokens in the mean over the LLM's layers, for methods before "
        "the LLM and inside it alike, against the dense model on the same held-out questions.",
        "tokenprune compare --task image --jobs 2 --force --out benchmarks/records/dozen.json",
        comparison,
    ),
    Section(
        "comparison.json",
        "Strategies on the reference model",
        "The strategies on the bundled model, with their defaults at three budgets as their stages "
        "count them, with a budget of "
        "their own or with the checkpoint that ships, against the dense model on the same held-out "
        "questions.",
        "tokenprune compare --task image --all --match stage --keep 32 16 8 --jobs 2 "
        "--force --out benchmarks/records/comparison.json",
        comparison,
    ),
    Section(
        "comparison-video.json",
        "Strategies on videos",
        "Every strategy on the bundled video model, held-out clips of eight frames. Budgets and "
        "tokens count per frame.",
        "tokenprune compare --all --match stage --task video --keep 16 8 --jobs 2 "
        "--force --out benchmarks/records/comparison-video.json",
        comparison,
    ),
    Section(
        "temporal.json",
        "EvoPrune on videos: its temporal mode",
        "The bundled video model with EvoPrune inside the encoder: per frame as in the paper, and "
        "with merges across neighbouring frames (`temporal`, ours), at equal budgets on the same "
        "held-out questions. `random` drops before the LLM.",
        "python -m benchmarks.temporal --limit 160 --out benchmarks/records/temporal.json",
        temporal,
    ),
    Section(
        "pictures.json",
        "A pretrained encoder on photographs",
        "Strategies that can stand inside an encoder, on a ViT-Tiny/16 trained on ImageNet and on "
        "photographs that are not part of this project. Patches are removed inside the encoder, "
        "and its class token answers. The pictures are the half that no default was chosen on.",
        "tokenprune compare --model timm:vit_tiny_patch16_224 --weights FILE --images DIR "
        "--labels CSV --split second --plans benchmarks/plans/*.yaml --keep 147 98 64 49 "
        "--force --out benchmarks/records/pictures.json",
        comparison,
    ),
    Section(
        "defaults-pictures.json",
        "How EvoPrune's defaults were chosen: photographs",
        "What the paper leaves open, one change at a time, on the same encoder and photographs. "
        f"{_HALVES}",
        "python -m benchmarks.defaults pictures --images DIR --labels CSV --weights FILE",
        defaults,
    ),
    Section(
        "defaults-reference.json",
        "How EvoPrune's defaults were chosen: reference model",
        f"The same changes on the reference model's held-out questions. {_HALVES}",
        "python -m benchmarks.defaults reference",
        defaults,
    ),
    Section(
        "defaults-protection.json",
        "What EvoPrune protects, and for how long",
        "Importance per token or per patch, protection at a step or for good, from the defaults "
        "that the two searches above led to, on the reference model's held-out questions. "
        f"{_HALVES}",
        "python -m benchmarks.defaults protection --limit 800",
        defaults,
    ),
    Section(
        "bench.json",
        "Time to first token",
        "Training-free strategies of static length at a quarter of the tokens, where comparisons "
        "put them, on synthetic pictures and questions, by batch size and pictures a prompt. "
        "Dense, on its fastest attention backend, and all plans take turns in one process. A gain "
        "in tokens is not always one in time: the reference model is small, and a net loss is "
        "called one.",
        "tokenprune bench --batch-size 1 8 --images 1 2 --force "
        "--out benchmarks/records/bench.json",
        speed,
    ),
    Section(
        "studies.json",
        "A study that is killed twice, and the same on a cluster",
        "`examples/studies/methods.yaml`: dense and ten methods at three budgets. The run and all "
        "its processes are killed with SIGKILL after a quarter and after three fifths of the "
        "cells, and started again. Then the same study runs on a Ray cluster of two nodes.",
        "python -m benchmarks.studies --out benchmarks/records/studies.json",
        study,
    ),
    Section(
        "encoders.json",
        "Encoder time",
        "One encoder pass, dense against pruned, with random weights. The FLOPs ratio is what "
        "could be gained at the dense run's speed, selection included in the count; *achieved* is "
        "the measured speed-up over it. Compiled rows say of how many graphs the pruned tower is. "
        "`uniform` keeps evenly spaced tokens without looking at them, so it achieves what the "
        "machine makes of fewer tokens. Blocks of timm that run with a plan overwrite the MLP's "
        "hidden states in their GELU, which the dense pass doesn't; part of the speed-up of these "
        "towers is that. `--tower`, `--batch`, `--strategy` and `--append` make the record in "
        "parts.",
        "python -m benchmarks.encoders --out benchmarks/records/encoders.json",
        encoders,
    ),
    Section(
        "serving.json",
        "Serving with vLLM",
        "vLLM's OpenAI server on a CPU, dense and with plans, all servers up at once and asked in "
        "turns. A LLaVA of 162 M random weights, 576 patches a picture; its tower is a larger "
        "share of the work than a 7B model's. TTFT is the time to first token, all figures are "
        "medians.",
        "python -m benchmarks.serving --out benchmarks/records/serving.json",
        serving,
    ),
    Section(
        "decoding.json",
        "Decoding",
        "A token behind a prompt that a plan shortened, on a LLaVA of random weights with a small "
        "tower: with a cache that grows, and behind a static cache, where the step is compiled "
        "without a break. Attention takes all slots of a static cache; those that `generate` makes "
        "lose the slots of tokens that are gone. EvoPrune keeps half of the tokens, FoPru and "
        "FastV a quarter, PyramidDrop halves them three times.",
        "python -m benchmarks.decoding --out benchmarks/records/decoding.json",
        decoding,
    ),
    Section(
        "gpu.json",
        "On a GPU",
        "Medians of one encoder pass in bfloat16: eager, recorded as a CUDA graph, and compiled. "
        "`uniform` keeps evenly spaced tokens without looking at them, so its speed-up is what the "
        "machine makes of fewer tokens. *early* lets only the first third of the blocks act, down "
        "to the same number of tokens. Eager passes of a few pictures wait for the CPU, which "
        "launches kernels one by one, and a site adds launches; for these there is "
        "`handle.record()`. Compiled passes of a few pictures wait for the CPU, too, longer with a "
        "plan. Then the time to the first token of random models in the shape of 7B ones, with "
        "half of the visual tokens left.",
        "benchmarks/gpu.sh",
        gpu,
    ),
    Section(
        "ops.json",
        "Selection operations",
        "Median time of each operation: plain torch against the Triton kernel, which needs a CUDA "
        "device.",
        "python -m benchmarks.ops --out benchmarks/records/ops.json",
        ops,
    ),
    Section(
        "ops-loops.json",
        "Greedy selections against plain loops",
        "The selections that pick token by token, and clusters of density peaks, on the CPU, "
        "against loops that follow the definition (`benchmarks/loops.py`). One sample of width "
        "512. Loop and operation take turns, three at least and for at least five seconds; the "
        "ratio is the median over the turns. The loop of `dpp_select` is incremental itself, as in "
        "the released code, so little is to be gained there. Among 576 tokens a step of "
        "`coverage_select`'s loop takes a tenth of a millisecond, which leaves little to gain.",
        "python -m benchmarks.ops --loops --out benchmarks/records/ops-loops.json",
        loops,
    ),
    Section(
        "growth.json",
        "How the cost grows",
        "From 1 to 64 pictures of a prompt, on small random models: what plans add to a call, in "
        "time and in operations. `qwen2.5-vl, 8 grids` has pictures of eight sizes, about which "
        "strategies are asked apart. From 196 to 8,000 tokens of one picture: each operation by "
        "itself. Exponents are slopes in doubly logarithmic scale, over all sizes and, as *tail*, "
        "over the last three. Made with `OMP_NUM_THREADS=1` in the environment. A further "
        "pick of `coverage_select` takes anew the sums of tokens that could still win; at a fixed "
        "number of picks these are a share of all.",
        "python -m benchmarks.growth --out benchmarks/records/growth.json",
        growth,
    ),
    Section(
        "reference_model.json",
        "The reference model itself",
        "Accuracy of the bundled model by question type, and how well it bears missing tokens. "
        "Its model card, `tokenprune/reference/weights/README.md`, says how it was trained and "
        "what it is not good for.",
        "python -m training.reference_model.evaluate",
        picture_model,
    ),
    Section(
        "detail_model.json",
        "The detail model itself",
        "Accuracy of the bundled detail model by question type, without the picture and with "
        "another one, and how well it bears missing tokens. Its card is "
        "`tokenprune/reference/detail_weights/README.md`.",
        "python -m training.detail_model.evaluate",
        picture_model,
    ),
    Section(
        "video_model.json",
        "The video model itself",
        "Accuracy of the bundled video model on held-out clips by question type, and what is left "
        "of it where the frames are changed. Its card is "
        "`tokenprune/reference/video_weights/README.md`.",
        "python -m training.video_model.evaluate",
        video_model,
    ),
)


def benchmarks(folder: Path = RECORDS) -> str:
    """The page, in Markdown.

    Args:
        folder: where the records lie.
    """
    parts = [INTRO.format(mark=MARK.format(source="benchmarks/records"))]
    return "\n".join([*parts, *(_section(section, folder / section.file) for section in SECTIONS)])


def _section(section: Section, path: Path) -> str:
    head = f"## {section.title}\n\n{section.about}\n\n```sh\n{section.command}\n```\n"
    if not path.exists():
        return f"{head}\nNot recorded yet: the command above makes `{section.file}`.\n"
    record = json.loads(path.read_text(encoding="utf-8"))
    return f"{head}\n{environment(record)}\n\n{section.show(record)}"
