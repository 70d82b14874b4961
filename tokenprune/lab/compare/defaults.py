"""The plans of a comparison without `--plans`: every strategy that can run, where it is best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenprune.interface.sites import Stage
from tokenprune.interface.strategy import PruningStrategy, placement, places
from tokenprune.interface.trainable import TrainableStrategy
from tokenprune.lab.judge.result import BASELINE
from tokenprune.lab.measure.entries import MAIN, Entry, Strategies, home, strategy_entry
from tokenprune.plan import Average, Plan, StagePlan, positions_of

#: Budgets of the built-in comparisons (ours). Of the reference model's 196 patches, 80 are what
#: methods inside its six layers can have in the mean, and a sixth to a 24th is where the others
#: differ; three quarters to a quarter for classifiers, whose class token reads what is left.
MLLM_KEEPS = (80, 32, 16, 8)
#: On detail pictures, of 400 patches: about as much, a quarter and an eighth.
DETAIL_KEEPS = (160, 100, 50)
CLASSIFIER_KEEPS = (147, 98, 64, 49)

#: What those are shares of: the bundled models', and a ViT's with patches of 16 on 224 pixels.
MLLM_PATCHES = CLASSIFIER_PATCHES = 196
DETAIL_PATCHES = 400

#: Methods of two coupled stages, and the share of the first stage's tokens that the second one,
#: inside the LLM, keeps in comparisons; the paper's number.
SECOND_KEEP: dict[str, float] = {"vscan": 0.333}

#: Rows of their own in comparisons on videos: what is added to a method's name, and parameters.
VIDEO_VARIANTS: dict[str, Mapping[str, Mapping[str, Any]]] = {
    "evoprune": {"temporal": {"temporal": True}}
}


@dataclass(frozen=True)
class Wanted:
    """What the default rows of a multimodal LLM depend on.

    Attributes:
        keeps: tokens per image, per frame of a video.
        positions: `original`, `compact`, or `both`: all with original position ids and a few with
            compacted ones beside them.
        seed: of the plans.
        video: whether questions are about clips.
        trained_for: the `model` of the shipped checkpoints that fit; empty for none.
        layers: layers of the LLM.
    """

    keeps: Sequence[int] = MLLM_KEEPS
    positions: str = "both"
    seed: int = 0
    video: bool = False
    trained_for: str = ""
    layers: int = 0


def default_entries(strategies: Strategies, wanted: Wanted) -> list[Entry]:
    """Every strategy that needs no training or ships trained, at every budget.

    Strategies that set their own budget stand once, behind the others, and so do learned ones at
    a budget that isn't among the given.
    """
    free = _training_free(strategies)
    fixed = [
        entry
        for keep in wanted.keeps
        for kind in free
        if kind.length != "own"
        for entry in _rows(kind, keep, wanted)
    ]
    own = [entry for kind in free if kind.length == "own" for entry in _own(kind, wanted)]
    found = [*fixed, *own, *learned_entries(strategies, wanted)]
    if wanted.positions == "both":
        found += _position_rows(strategies, wanted)
    return grouped(found)


def _training_free(strategies: Strategies) -> list[type[PruningStrategy[Any]]]:
    kinds = [kind for _, kind in sorted(strategies.items())]
    return [kind for kind in kinds if not issubclass(kind, TrainableStrategy)]


def grouped(entries: Sequence[Entry]) -> list[Entry]:
    """The rows with those of one group and budget next to each other, else in the given order."""
    first = {(e.group, e.peers): place for place, e in reversed([*enumerate(entries)])}
    return sorted(entries, key=lambda entry: first[entry.group, entry.peers])


def encoder_entries(strategies: Strategies, keeps: Sequence[int], *, seed: int = 0) -> list[Entry]:
    """Every training-free strategy that can stand inside an encoder, at every budget.

    Each runs under its own default schedule; the scores and baselines share `skip`.
    """
    free = [kind for kind in _training_free(strategies) if kind.length == "planned"]
    return [
        strategy_entry(kind, keep, "encoder", seed=seed)
        for keep in keeps
        for kind in free
        if "encoder" in places(kind)
    ]


def random_beside(strategies: Strategies, entry: Entry, tokens: float, most: int) -> Entry:
    """The baseline that hands the LLM as many tokens as `entry` did in the mean, rounded.

    Args:
        strategies: by name.
        entry: a row without a baseline at its own budget.
        tokens: its measured tokens per image, mean over the LLM's layers.
        most: tokens of an unpruned image.
    """
    keep = min(max(1, round(tokens)), most)
    row = strategy_entry(strategies[BASELINE], keep, "pre_llm", seed=entry.plan.seed)
    plan = row.plan.model_copy(
        update={"positions": positions_of(entry.plan), "images": entry.plan.images}
    )
    return replace(row, plan=plan, group=entry.group, budget=entry.peers)


def learned_entries(strategies: Strategies, wanted: Wanted) -> Iterator[Entry]:
    """Learned strategies with the shipped checkpoints that were trained for this model."""
    for _, kind in sorted(strategies.items()):
        if not (issubclass(kind, TrainableStrategy) and wanted.trained_for):
            continue
        for name, path in kind.shipped().items():
            facts = _facts(path)
            if facts.get("model") == wanted.trained_for:
                given = facts.get("keep", "")
                keep = int(given) if given.isdecimal() else None
                yield _free(kind, keep, wanted, params={"checkpoint": f"bundled:{name}"})


def _rows(kind: type[PruningStrategy[Any]], keep: int, wanted: Wanted) -> Iterator[Entry]:
    yield _free(kind, keep, wanted)
    for name, params in VIDEO_VARIANTS.get(kind.name, {}).items() if wanted.video else ():
        yield _free(kind, keep, wanted, name=f"{kind.name} {name}", params=params)
    if kind.name in SECOND_KEEP and wanted.layers > 1:
        yield _coupled(kind, keep, SECOND_KEEP[kind.name], wanted)


def _own(kind: type[PruningStrategy[Any]], wanted: Wanted) -> Iterator[Entry]:
    """A method that sets its own budget, and the same in two stages if it can be."""
    yield _free(kind, None, wanted)
    two = {"pre_llm", "decoder"} <= {*places(kind)}
    if two and not placement(kind, "decoder").every_layer:
        one = StagePlan(at="pre_llm", strategy=kind.name)
        yield _staged(kind, (one, one.model_copy(update={"at": "decoder"})), wanted, "own")


def _free(kind: type[PruningStrategy[Any]], keep: int | None, wanted: Wanted, **more: Any) -> Entry:
    compact = wanted.positions == "compact"
    more = {"seed": wanted.seed, "compact": compact, "layers": wanted.layers, **more}
    return strategy_entry(kind, keep, home(kind), **more)


def _coupled(
    kind: type[PruningStrategy[Any]], keep: int, second_keep: float, wanted: Wanted
) -> Entry:
    first = StagePlan(at="pre_llm", strategy=kind.name, keep=Average(average=keep))
    layer = placement(kind, "decoder").layer_of(wanted.layers)
    second = StagePlan(at="decoder", strategy=kind.name, keep=second_keep, layer=layer)
    return _staged(kind, (first, second), wanted, str(keep))


def _staged(
    kind: type[PruningStrategy[Any]], stages: tuple[StagePlan, ...], wanted: Wanted, budget: str
) -> Entry:
    name = f"{kind.name} 2-stage"
    plan = Plan(
        name=f"{name}-{budget}",
        seed=wanted.seed,
        positions="compact" if wanted.positions == "compact" else "original",
        stages=stages,
    )
    if budget == "own":
        return Entry(name, plan, MAIN, "as many tokens as each stage chooses", f"own, {name}")
    means = "mean over the LLM's layers, and what the second stage keeps of the first's"
    return Entry(name, plan, MAIN, means, budget)


def _position_rows(strategies: Strategies, wanted: Wanted) -> Iterator[Entry]:
    """The baseline and one strategy of every place before the LLM, with compacted position ids."""
    middle = wanted.keeps[len(wanted.keeps) // 2]
    shown: dict[Stage, type[PruningStrategy[Any]]] = {}
    for kind in _training_free(strategies):
        if kind.length != "own" and kind.name != BASELINE:
            shown.setdefault(home(kind), kind)
    shown.pop("decoder", None)
    baseline = [strategies[BASELINE]] if BASELINE in strategies else []
    for kind in [*shown.values(), *baseline]:
        yield strategy_entry(kind, middle, home(kind), seed=wanted.seed, compact=True, also=True)


def _facts(path: Path) -> Mapping[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}
