"""Rows about what stands beside a sample in a batch: other samples, and padding."""

from __future__ import annotations

from typing import Any

from tokenprune.lab.verify import names
from tokenprune.lab.verify.checks import Bench, counted, same_images
from tokenprune.lab.verify.observing import unpadded
from tokenprune.lab.verify.record import InvariantRow
from tokenprune.testing.plain.comparing import PRECISE, Difference

ALIKE = 10
"""A plan's difference is the model's own if it is at most so many times as large (ours)."""


def batch(bench: Bench) -> InvariantRow:
    """All samples in one call give what each gave alone, and keep the same tokens."""
    subject, alone = bench.subject, bench.forwards
    reason = _unlike(bench)
    if reason:
        return bench.skipped("batch", reason)
    inputs = _placed(bench, subject.inputs(subject.samples))
    with bench.observer.attached() as handle:
        together = bench.observer.forward(handle, inputs)
    total, tipped, faults, start = Difference(), 0, [], 0
    for row, one in enumerate(alone):
        images = together.images[start : start + len(one.images)]
        start += len(one.images)
        if not same_images(images, one.images):
            tipped += 1
            continue
        found = together.output[row]
        if subject.mllm is not None:
            found = found[unpadded(inputs, row)]
        total.add(found, one.output[0])
    if start != len(together.images):
        faults.append(f"the batch traced {len(together.images)} images, its samples {start}")
    lengths = sorted({one.output.shape[1] for one in alone}) if subject.mllm is not None else []
    compared = counted(len(alone), "sample")
    compared += f" of {', '.join(map(str, lengths))} tokens" if lengths else ""
    judged = _judged(bench, "batch", total, compared, tipped, faults)
    if judged.status == "fail" and subject.mllm is not None and not faults:
        own = _dense(bench, inputs)
        if own > bench.tolerance and total.value <= ALIKE * own:
            return bench.skipped(
                "batch", f"without a plan, too, the model itself gives other logits, by {own:.1e}"
            )
    return judged


def _dense(bench: Bench, inputs: Any) -> float:
    """How far the plain model's logits in a batch are from those of its samples alone."""
    subject, total = bench.subject, Difference()
    together = subject.call(inputs)
    for row, one in enumerate(bench.forwards):
        total.add(together[row][unpadded(inputs, row)], subject.call(one.inputs)[0])
    return total.value


def padding(bench: Bench) -> InvariantRow:
    """Every prompt with padding in front gives what it gives without."""
    if bench.subject.mllm is None:
        return bench.skipped("padding", "an encoder has no prompt")
    total, tipped, columns = Difference(), 0, 5
    alone = bench.forwards
    with bench.observer.attached() as handle:
        for one in alone:
            inputs = _placed(bench, names.padded(one.inputs, columns))
            seen = bench.observer.forward(handle, inputs)
            if same_images(seen.images, one.images):
                total.add(seen.output[:, columns:], one.output)
            else:
                tipped += 1
    compared = f"{counted(len(bench.forwards), 'prompt')} with {columns} tokens of padding"
    return _judged(bench, "padding", total, compared, tipped, [])


def _unlike(bench: Bench) -> str:
    """Why the model itself, without a plan, gives a padded batch otherwise; empty if it doesn't."""
    mllm = bench.subject.mllm
    if mllm is None or mllm.chooses is None:
        return ""
    lengths = {seen.inputs[names.PROMPT].shape[1] for seen in bench.forwards}
    if len(lengths) == 1 or max(lengths) <= mllm.chooses:
        return ""
    return (
        f"layers choose blocks of {mllm.chooses} keys, and padding moves the blocks, also without "
        "a plan"
    )


def _placed(bench: Bench, inputs: Any) -> Any:
    """Inputs in which padding has no places, for LLMs that compute with these."""
    mllm = bench.subject.mllm
    return names.counted(inputs) if mllm is not None and mllm.placed else inputs


def _judged(
    bench: Bench, key: str, total: Difference, compared: str, tipped: int, faults: list[str]
) -> InvariantRow:
    """Other choices are a fault where rounding doesn't tip them, and are left out elsewhere."""
    if not tipped:
        return bench.judged(key, total, compared, faults=faults)
    told = f"{counted(tipped, 'sample')} kept other tokens"
    if bench.subject.dtype in PRECISE:
        return bench.judged(key, total, compared, faults=[told, *faults])
    if not total.values:
        return bench.skipped(key, f"{told}: rounding tips their choice; use --dtype float32")
    told += ", whose choice rounding tips, and were left out"
    return bench.judged(key, total, compared, faults=faults, note=told)
