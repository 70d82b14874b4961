"""Put a trained checkpoint among those that ship, and record what it reaches.

python -m training.strategies.ship vistog runs/vistog reference-16
python -m training.strategies.ship quecc --again reference-49

With `--again` nothing is copied: the file that ships is measured anew, beside the record of its
training.

The accuracies are those of the file that ships, float16, on one held-out question a picture, beside
what needs no training at the same budget.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenprune_strategies
import torch
import yaml

from tokenprune.engine.adapters import choose_adapter
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.loading import LoadedMllm, LoadOptions
from tokenprune.interface.trainable import TrainableStrategy
from tokenprune.lab.models import load_model
from tokenprune.lab.train.heldout import accuracy, reference_questions
from tokenprune.lab.train.record import facts
from tokenprune.lab.train.stage import trainable
from tokenprune.plan import Plan, load_plan
from tokenprune.reference import reference_model_path

QUESTIONS = 300
BASELINES = ("random", "uniform", "fopru")
COVIPAL_KEEPS = (32, 16, 8)
THRESHOLDS = (0.3, 0.5, 0.7)
RECORDS = Path("benchmarks/records")
SEEN = 1.96


def main() -> None:
    """Copy, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("strategy")
    parser.add_argument("run", type=Path, nargs="?", help="folder that tokenprune train wrote")
    parser.add_argument("name", help="what plans write behind bundled:")
    parser.add_argument("--after", type=Path, help="folder of the run that it went on from")
    parser.add_argument("--again", action="store_true", help="measure the file that ships anew")
    options = parser.parse_args()
    if (options.run is None) != options.again:
        parser.error("give a run's folder, or --again")
    torch.set_num_threads(1)
    loaded = load_model(str(reference_model_path()), LoadOptions())
    assert isinstance(loaded, LoadedMllm)
    path = RECORDS / f"training_{options.strategy}.json"
    record = {"strategy": options.strategy, "checkpoints": {}}
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
    if options.again:
        shipped = record["checkpoints"][options.name]
        plan = load_plan(yaml.safe_load(shipped["training"]["plan"]))
    else:
        copy(loaded, options.strategy, options.run, options.name)
        earlier = {"earlier": training(options.after)} if options.after else {}
        shipped = {"training": training(options.run), **earlier}
        plan = load_plan(options.run / "plan.yaml")
    measured = measure(loaded, options.strategy, plan, options.name)
    record["checkpoints"][options.name] = {**shipped, "heldout": measured}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for row in measured["rows"]:
        print(row["label"], row["accuracy"], row["interval"], row["llm_average"], row["by_type"])


def training(run: Path) -> dict[str, Any]:
    """What `tokenprune train` recorded."""
    found: dict[str, Any] = json.loads((run / "training.json").read_text(encoding="utf-8"))
    return found


def copy(loaded: LoadedMllm, strategy: str, run: Path, name: str) -> None:
    """The weights into the package, as float16."""
    folder = Path(tokenprune_strategies.__path__[0]) / "weights" / strategy
    folder.mkdir(parents=True, exist_ok=True)
    plan = load_plan(run / "plan.yaml")
    steps = training(run)["settings"]["steps"]
    learned = trainable(strategy).from_params(checkpoint=run / f"{strategy}.safetensors")
    assert isinstance(learned, TrainableStrategy)
    adapter = choose_adapter(loaded.model)
    assert isinstance(adapter, MllmAdapter)
    about = facts(loaded, adapter.spec().core, plan, 0, steps)
    path = folder / f"{name}.safetensors"
    learned.save_checkpoint(path, about, half=True)
    path.chmod(0o644)


def measure(loaded: LoadedMllm, strategy: str, plan: Plan, name: str) -> dict[str, Any]:
    """Accuracy of the checkpoint, of the dense model and of what needs no training."""
    questions = reference_questions(QUESTIONS)
    rows = []
    for label, one in variants(strategy, plan, name):
        found = accuracy(loaded, one, questions)
        low, high = wilson(found["accuracy"], found["questions"])
        average = found["tokens"].get("llm_average")
        kept = {"label": label, "llm_average": average, "interval": [low, high]}
        rows.append({**kept, "accuracy": found["accuracy"], "by_type": found["by_type"]})
    dense, mine = rows[0]["by_type"], rows[1]["by_type"]
    losses = {kind: round(dense[kind] - mine[kind], 4) for kind in dense}
    return {
        "questions": len(questions),
        "pictures": len(questions),
        "rows": rows,
        "lost_by_type": dict(sorted(losses.items(), key=lambda pair: -pair[1])),
    }


def variants(strategy: str, plan: Plan, name: str) -> Iterator[tuple[str, Plan]]:
    """Dense, the checkpoint at its budgets, and the baselines at the same ones."""
    yield "dense", Plan()
    stage = plan.stages[0]
    params = {**stage.params, "checkpoint": f"bundled:{name}"}
    if strategy == "dyvte":
        for threshold in sorted(THRESHOLDS, key=lambda value: abs(value - 0.5)):
            given = {**params, "threshold": threshold}
            yield f"dyvte threshold {threshold}", _plan({**_data(plan), "params": given})
        for layer in range(5):
            fixed = {"at": "decoder", "strategy": "dyvte", "params": {"exit_layer": layer}}
            yield f"exit of all behind layer {layer}", _plan(fixed)
        return
    own = stage.keep if isinstance(stage.keep, int) else 0
    keeps = sorted(COVIPAL_KEEPS, key=lambda keep: abs(keep - own))
    for keep in keeps if strategy == "covipal_style" else [own]:
        yield f"{strategy} {keep}", _plan({**_data(plan), "params": params, "keep": keep})
        for other in BASELINES:
            yield f"{other} {keep}", _plan({"at": "pre_llm", "strategy": other, "keep": keep})


def _data(plan: Plan) -> dict[str, Any]:
    return plan.stages[0].model_dump(mode="json", exclude_none=True)


def _plan(stage: dict[str, Any]) -> Plan:
    return load_plan({"stages": [stage]})


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share of `count` independent answers (Wilson's)."""
    square = SEEN**2
    centre = share + square / (2 * count)
    spread = SEEN * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    scale = 1 + square / count
    return round((centre - spread) / scale, 4), round((centre + spread) / scale, 4)


if __name__ == "__main__":
    main()
