r"""lmms-eval and `tokenprune compare` on the same samples: do they say the same?

    python -m benchmarks.lmms_eval_agreement --python ENV/bin/python --limit 100 \
        --out benchmarks/records/lmms_eval.json

Runs lmms-eval's own command line in the environment that `--python` belongs to, offline, with the
bundled reference model: dense and with every plan, and dense once more with lmms-eval's own model
class, which knows nothing of tokenprune. The same plans run through `compare` in this process.
Answers are compared sample by sample, accuracies and measured tokens as numbers; the exit code is 1
if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.lmms_eval_task import NAME, write_task
from tokenprune.lab.compare import Settings, Source, compare
from tokenprune.lab.data.pictures import heldout_questions
from tokenprune.lab.judge import Result
from tokenprune.lab.measure.files import write_text
from tokenprune.lab.models import load_options
from tokenprune.plan import dump_plan, load_plan
from tokenprune.reference import reference_model_path

console = Console()

ROOT = Path(__file__).parents[1]
PLANS = (
    "benchmarks/plans/random.yaml",
    "examples/plans/tome-mean.yaml",
    "examples/plans/fopru-quarter.yaml",
    "examples/plans/evoprune-fastv.yaml",
    "examples/plans/ipcv-fastv.yaml",
    "examples/plans/three-stages.yaml",
)
OURS, ANY, THEIRS = "tokenprune_llava_hf", "tokenprune_hf", "llava_hf"
VERSIONS = """
import json
from importlib.metadata import version
names = ("lmms-eval", "tokenprune", "torch", "transformers", "datasets")
print(json.dumps({name: version(name) for name in names}))
"""

#: Mean tokens are sums of whole numbers divided once; only the order of addition can differ.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Run:
    """What lmms-eval answered.

    Attributes:
        accuracy: as it reports it.
        answers: one a sample, in order.
        tokens: mean tokens per image by stage; empty without a plan.
    """

    accuracy: float
    answers: list[str]
    tokens: dict[str, float]


@dataclass(frozen=True)
class Row:
    """One run of lmms-eval beside the same plan in `compare`."""

    model: str
    plan: str
    accuracy: float
    compare_accuracy: float
    samples: int
    different_answers: int
    tokens: dict[str, float]
    compare_tokens: dict[str, float]

    @property
    def agrees(self) -> bool:
        """Whether answers, accuracy and tokens are the same."""
        tokens = self.tokens.items()
        return (
            self.different_answers == 0
            and abs(self.accuracy - self.compare_accuracy) < TOLERANCE
            and all(abs(self.compare_tokens[name] - mean) < TOLERANCE for name, mean in tokens)
        )


class Harness:
    """lmms-eval's command line on the task folder.

    Args:
        python: the interpreter of the environment that it is installed in.
        folder: where task, cache and outputs go.
        batch_size: requests a batch.
    """

    def __init__(self, python: Path, folder: Path, batch_size: int) -> None:
        self.python, self.folder, self.batch_size = python, folder, batch_size
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        self.environment = {**os.environ, **offline, "HF_HOME": str(folder / "cache")}

    def versions(self) -> dict[str, str]:
        """Versions in that environment."""
        found: dict[str, str] = json.loads(self._run("-c", VERSIONS))
        return found

    def evaluate(self, model: str, more: str = "", *, batch_size: int | None = None) -> Run:
        """Run the task once; `more` are model arguments besides the checkpoint and its dtype."""
        out = Path(tempfile.mkdtemp(dir=self.folder))
        given = f"pretrained={reference_model_path()},dtype=float32" + (f",{more}" if more else "")
        task = ("--include_path", str(self.folder / "task"), "--tasks", NAME)
        # on any other verbosity lmms-eval prints an error and exits with 0
        output = ("--log_samples", "--output_path", str(out), "--verbosity", "DEBUG")
        size = ("--batch_size", str(batch_size or self.batch_size), "--device", "cpu")
        chosen = ("--model", model, "--model_args", given)
        self._run("-m", "lmms_eval", *chosen, *task, *size, *output)
        return _read(out)

    def _run(self, *arguments: str) -> str:
        command = [str(self.python), *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-4000:]}")
        return done.stdout


def _read(out: Path) -> Run:
    results = json.loads(_only(out, "*_results.json").read_text(encoding="utf-8"))
    lines = _only(out, f"*_samples_{NAME}.jsonl").read_text(encoding="utf-8").splitlines()
    samples = sorted((json.loads(line) for line in lines), key=lambda sample: sample["doc_id"])
    return Run(
        accuracy=results["results"][NAME]["accuracy,none"],
        answers=[_text(sample["filtered_resps"]) for sample in samples],
        tokens={
            name.removeprefix("avg_tokens_"): mean
            for name, mean in results.get("throughput", {}).items()
            if name.startswith("avg_tokens_")
        },
    )


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.rglob(pattern))
    if len(found) != 1:
        raise SystemExit(f"lmms-eval left {len(found)} files {pattern} in {folder}, not one.")
    return found[0]


def _text(answer: Any) -> str:
    return str(answer[0] if isinstance(answer, list) else answer)


def row(model: str, run: Run, result: Result) -> Row:
    """A run beside the row of `compare`.

    Raises:
        ValueError: they answered different numbers of samples.
    """
    pairs = list(zip(run.answers, result.run.answers, strict=True))
    return Row(
        model=model,
        plan=result.name,
        accuracy=run.accuracy,
        compare_accuracy=result.accuracy.value,
        samples=len(pairs),
        different_answers=sum(one.strip() != other.strip() for one, other in pairs),
        tokens=run.tokens,
        compare_tokens=dict(result.tokens),
    )


def agreement(harness: Harness, plans: Sequence[Path], limit: int) -> dict[str, Any]:
    """Run both, and put them side by side: the record."""
    write_task(harness.folder / "task", heldout_questions(limit))
    settings = Settings(plans=[(plan.stem, load_plan(plan)) for plan in plans], limit=limit)
    comparison = compare(Source(str(reference_model_path()), load_options("cpu"), settings))
    dense = comparison.dense
    rows = [row(THEIRS, harness.evaluate(THEIRS, "device_map=cpu", batch_size=1), dense)]
    rows += [row(name, harness.evaluate(name), dense) for name in (OURS, ANY)]
    for plan, result in zip(plans, comparison.results, strict=True):
        rows.append(row(OURS, harness.evaluate(OURS, f"plan={plan}"), result))
        console.print(f"{result.name}: {'agrees' if rows[-1].agrees else 'differs'}")
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": comparison.model,
        "samples": limit,
        "batch_size": {"compare": Settings().batch_size, "lmms_eval": harness.batch_size},
        "environment": comparison.environment,
        "harness": harness.versions(),
        "agrees": all(one.agrees for one in rows),
        "plans": {result.name: dump_plan(result.run.plan) for result in comparison.results},
        "rows": [asdict(one) | {"agrees": one.agrees} for one in rows],
    }


def show(record: dict[str, Any]) -> Table:
    """The record as a table."""
    names = ("model", "plan", "lmms-eval", "compare", "different answers", "tokens in the LLM")
    table = Table(*names, title=f"{record['samples']} samples")
    for one in record["rows"]:
        tokens = one["tokens"].get("llm_average")
        table.add_row(
            one["model"],
            one["plan"],
            f"{one['accuracy']:.4f}",
            f"{one['compare_accuracy']:.4f}",
            str(one["different_answers"]),
            "" if tokens is None else f"{tokens:.2f}",
        )
    return table


def main() -> None:
    """Read the command line, run, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--python", type=Path, required=True, help="where lmms-eval is installed")
    parser.add_argument("--plan", type=Path, nargs="+", default=[ROOT / plan for plan in PLANS])
    parser.add_argument("--limit", type=int, default=100, help="samples (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=4, help="of lmms-eval (%(default)s)")
    parser.add_argument("--out", type=Path, help="record to write")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        harness = Harness(chosen.python.absolute(), Path(folder), chosen.batch_size)
        record = agreement(harness, [plan.absolute() for plan in chosen.plan], chosen.limit)
    console.print(show(record))
    if chosen.out:
        write_text(chosen.out, json.dumps(record, indent=1) + "\n")
    sys.exit(0 if record["agrees"] else 1)


if __name__ == "__main__":
    main()
