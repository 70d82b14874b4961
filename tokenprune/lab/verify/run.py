"""Verify a plan on a model: every invariant in turn, each as one row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import torch

from tokenprune.interface.loading import LoadedModel
from tokenprune.lab.data.question import Question
from tokenprune.lab.measure.environment import describe_environment
from tokenprune.lab.measure.telling import Tell
from tokenprune.lab.models import bundled_name
from tokenprune.lab.trained import check_trained_for
from tokenprune.lab.verify.batching import batch, padding
from tokenprune.lab.verify.checks import Bench
from tokenprune.lab.verify.counting import counts
from tokenprune.lab.verify.observing import Observer
from tokenprune.lab.verify.record import InvariantRow, Verification
from tokenprune.lab.verify.restoring import detach, keep_all, leftovers, threads
from tokenprune.lab.verify.shortening import decoding, encoder, generation, prefill
from tokenprune.lab.verify.subject import VerifiedModel, widened
from tokenprune.plan import Plan, dump_plan
from tokenprune.testing.plain.footprint import footprint

Check = Callable[[Bench], InvariantRow]

#: Rows that compare the model with itself, in the dtype that it was loaded in.
RESTORING: dict[str, Check] = {"keep_all": keep_all, "detach": detach}
#: The other rows, in float64 if the model is widened.
OTHERS: dict[str, Check] = {
    "counts": counts,
    "batch": batch,
    "padding": padding,
    "encoder": encoder,
    "prefill": prefill,
    "decoding": decoding,
    "generation": generation,
    "leftovers": leftovers,
    "threads": threads,
}


def verify(
    loaded: LoadedModel,
    plan: Plan,
    samples: Sequence[Question],
    *,
    source: str = "",
    new_tokens: int = 4,
    widen: bool = False,
    tell: Tell | None = None,
) -> Verification:
    """Run all invariants on a model with its own weights.

    Args:
        loaded: the model.
        plan: the plan.
        samples: at least two, of several lengths.
        source: where their pictures come from.
        new_tokens: tokens that are generated.
        widen: run all rows but the first two in float64, in which only real differences remain,
            where the model can; the record says why it can't.
        tell: told (rows done, rows in all, what runs).

    Returns:
        The record; the model is as it was.

    Raises:
        UnsupportedModelError: no adapter serves the model.
        CheckpointError: a checkpoint of the plan was trained for another model.
        TokenpruneError: the plan can't be attached to it.
    """
    check_trained_for(loaded, plan)
    subject = VerifiedModel.of(loaded, samples, new_tokens)
    checks, rows = [*RESTORING.items(), *OTHERS.items()], []
    loaded_dtype, narrow = subject.dtype, ""
    with torch.no_grad(), ExitStack() as stack:
        bench = _bench(subject, plan)
        with bench.observer.attached():  # a plan that is refused is refused before the first row
            pass
        for number, (key, check) in enumerate(checks):
            if tell is not None:
                tell(number, len(checks), key)
            if widen and key == next(iter(OTHERS)):
                narrow = _narrow(subject)
                if not narrow:
                    stack.enter_context(widened(loaded.model, torch.float64))
            rows.append(bench.guarded(key, check))
        dtypes = {"keep_all and detach": _name(loaded_dtype), "other rows": _name(subject.dtype)}
    return Verification(
        model=_model(loaded),
        plan=_plan(plan),
        inputs=_inputs(samples, source),
        settings={"new_tokens": new_tokens, "dtypes": dtypes, "not_widened": narrow},
        environment=describe_environment(),
        rows=rows,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _narrow(subject: VerifiedModel) -> str:
    """Why the model can't run in float64, such as for a kernel without it; empty if it can."""
    with widened(subject.model, torch.float64):
        try:
            subject.call(subject.inputs(subject.samples[:1]))
        except (RuntimeError, NotImplementedError) as error:
            return str(error).strip().splitlines()[0]
    return ""


def _inputs(samples: Sequence[Question], source: str) -> dict[str, Any]:
    questions = [sample.text for sample in samples]
    return {"pictures": source, "samples": len(samples), "questions": questions}


def _bench(subject: VerifiedModel, plan: Plan) -> Bench:
    # the first call of a model may install things on it, such as hooks of transformers' own
    inputs = subject.inputs(subject.samples[:1])
    subject.call(inputs)
    if subject.mllm is not None:
        subject.generate(inputs)
    return Bench(subject, plan, Observer(subject, plan), footprint(subject.model))


def _model(loaded: LoadedModel) -> dict[str, Any]:
    example = next(loaded.model.parameters())
    return {
        "name": bundled_name(loaded.name) or loaded.name,
        "class": f"{type(loaded.model).__module__}.{type(loaded.model).__qualname__}",
        "weights": loaded.weights,
        "sha256": loaded.fingerprint(),
        "device": str(example.device),
    }


def _plan(plan: Plan) -> dict[str, Any]:
    text = dump_plan(plan)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"name": plan.name, "sha256": digest, "plan": plan.model_dump(mode="json")}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
