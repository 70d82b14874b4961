"""Rows about the plain model: keeping all tokens, detaching, exceptions, threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine.attachment import Attachment
from tokenprune.engine.call import current
from tokenprune.errors import TokenpruneError
from tokenprune.lab.verify.checks import Bench, counted
from tokenprune.lab.verify.observing import Observer
from tokenprune.lab.verify.record import InvariantRow
from tokenprune.plan import Plan, StagePlan
from tokenprune.testing.plain.comparing import TOLERANCES, Difference, largest
from tokenprune.testing.plain.footprint import changes, footprint

#: Seconds for which a thread waits for the other one.
PATIENCE = 60.0


def keep_all(bench: Bench) -> InvariantRow:
    """Outputs under plans that keep all tokens are those of the plain model."""
    subject, inputs = bench.subject, bench.inputs
    plain = bench.plain  # before anything is attached
    stages, left = _keeping_stages(bench)
    plans = [bench.plan.model_copy(update={"stages": ()})]
    plans += [bench.plan.model_copy(update={"stages": tuple(stages)})] if stages else []
    total = Difference()
    for plan in plans:
        with Observer(subject, plan).attached():
            for one, before in zip(inputs, plain, strict=True):
                for found, reference in zip(subject.outputs(one), before, strict=True):
                    total.add(found, reference)
    compared = f"{counted(len(inputs), 'sample')}, without stages"
    if stages:
        compared += f" and with keep: 1.0 at {counted(len(stages), 'stage')}"
    notes = [f"no keep-all form: {', '.join(left)}"] if left else []
    tolerance, partial = _exact(bench), subject.mllm is not None and subject.mllm.partial
    if partial:  # the shapes of products differ then, and with them the order of additions
        tolerance = bench.tolerance
        notes.append("the plain model computes its last layers for the last token alone")
    return bench.judged("keep_all", total, compared, tolerance=tolerance, note="; ".join(notes))


def detach(bench: Bench) -> InvariantRow:
    """Outputs after detaching are those before attaching, and nothing is left on any module."""
    subject, inputs = bench.subject, bench.inputs
    before = bench.plain
    with bench.observer.attached():
        for one in inputs:
            subject.outputs(one)
    left = changes(bench.pristine, footprint(subject.model))
    after = [subject.outputs(one) for one in inputs]
    del bench.plain  # logits of whole prompts, which no other row needs
    pairs = [
        pair for now, old in zip(after, before, strict=True) for pair in zip(now, old, strict=True)
    ]
    modules = counted(len(bench.pristine), "module")
    compared = f"{counted(len(inputs), 'sample')}, {modules}"
    return bench.judged("detach", largest(pairs), compared, tolerance=_exact(bench), faults=left)


def leftovers(bench: Bench) -> InvariantRow:
    """A call that raises leaves neither state nor attributes, and the next is as the first."""
    subject = bench.subject
    inputs = subject.inputs(subject.samples[:1])
    with bench.observer.attached() as handle:
        first = subject.outputs(inputs)
        standing = footprint(subject.model)
        faults = _interrupted(bench, handle, inputs)
        second = subject.outputs(inputs)
        faults += ["a finished call is still running"] if current(handle) is not None else []
        faults += changes(standing, footprint(subject.model))
    pairs = list(zip(second, first, strict=True))
    compared = "one sample before and after a call that raised in the last layer"
    return bench.judged(
        "leftovers", largest(pairs), compared, tolerance=_exact(bench), faults=faults
    )


def threads(bench: Bench) -> InvariantRow:
    """Two samples in two threads give what they give one after the other.

    Each call waits behind the model's first part until the other one is there too, and each trace
    is read when both are done.
    """
    subject, inputs = bench.subject, bench.inputs[:2]
    with bench.observer.attached() as handle:
        alone = [(subject.call(one), _anchors(handle)) for one in inputs]
        found = _at_once(bench, handle, inputs)
    faults = [f"thread {number} raised" for number in range(len(inputs)) if number not in found]
    faults += [
        f"thread {number} sees the trace of another call"
        for number, (_, kept) in found.items()
        if kept != alone[number][1]
    ]
    pairs = [(found[number][0], alone[number][0]) for number in found]
    compared = f"{counted(len(inputs), 'sample')}, one a thread"
    return bench.judged("threads", largest(pairs), compared, faults=faults)


def _at_once(
    bench: Bench, handle: Attachment, inputs: Sequence[Any]
) -> dict[int, tuple[Tensor, list[list[int]]]]:
    """Outputs and traces by thread; those that raised are missing."""
    found: dict[int, tuple[Tensor, list[list[int]]]] = {}
    inside, done = threading.Barrier(len(inputs)), threading.Barrier(len(inputs))
    waited = threading.local()

    def meet(*_: Any) -> None:
        if not hasattr(waited, "once"):
            waited.once = True
            inside.wait(PATIENCE)

    def work(number: int) -> None:
        try:
            with torch.no_grad():
                output = bench.subject.call(inputs[number])
            done.wait(PATIENCE)
            found[number] = output, _anchors(handle)
        except Exception:
            inside.abort()
            done.abort()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(len(inputs))]
    with bench.subject.first_part.register_forward_hook(meet):
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return found


def _anchors(handle: Attachment) -> list[list[int]]:
    """Patches whose places the survivors of every image hold, in this thread's latest call."""
    return [step.anchor.tolist() for image in handle.trace.images for step in image.steps[-1:]]


def _exact(bench: Bench) -> float:
    """Zero on the CPU; other devices may add in another order from run to run."""
    on_cpu = next(bench.subject.model.parameters()).device.type == "cpu"
    return 0.0 if on_cpu else TOLERANCES[bench.subject.dtype]


def _keeping_stages(bench: Bench) -> tuple[list[StagePlan], list[str]]:
    """The plan's stages as stages that keep all, and the strategies that have no such form."""
    stages, left = [], []
    for stage in bench.stages:
        whole = stage.plan.model_copy(
            update={
                "keep": 1.0,
                "schedule": None,
                "keep_text": None if stage.plan.keep_text is None else 1.0,
            }
        )
        alone = bench.plan.model_copy(update={"stages": (whole,)})
        if stage.strategy.length != "own" and _keeps(bench, alone):
            stages.append(whole)
        else:
            left.append(stage.plan.strategy)
    return stages, left


def _keeps(bench: Bench, plan: Plan) -> bool:
    """Whether a stage with a ratio of one can be had and makes no tokens of its own."""
    observer = Observer(bench.subject, plan)
    try:
        with observer.attached() as handle:
            inputs = bench.subject.inputs(bench.subject.samples[:1])
            seen = observer.forward(handle, inputs)
    except TokenpruneError:
        return False
    return not any(answer.creates for answer in seen.answers)


class _Interruption(Exception):
    """Raised on purpose in the middle of a call."""


def _interrupted(bench: Bench, handle: Attachment, inputs: Any) -> list[str]:
    def stop(*_: Any) -> None:
        raise _Interruption

    with bench.subject.last_part.register_forward_hook(stop):
        try:
            bench.subject.call(inputs)
        except _Interruption:
            running = current(handle) is not None
            return ["a call that raised is still running"] if running else []
    return ["an exception in the last layer was swallowed"]
