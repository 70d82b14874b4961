"""Rows about the shortened run itself, against a full-length run with removed tokens hidden."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune.engine.patching import Patches
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.lab.verify import names
from tokenprune.lab.verify.checks import Bench, counted
from tokenprune.lab.verify.observing import SeenCall
from tokenprune.lab.verify.record import InvariantRow
from tokenprune.lab.verify.reference import FullRun
from tokenprune.lab.verify.subject import VerifiedModel
from tokenprune.testing.plain.comparing import Difference, share
from tokenprune.testing.plain.halves import HalvesBesideBlocks


def encoder(bench: Bench) -> InvariantRow:
    """States of survivors behind the last used block."""
    if not any(stage.plan.at == "encoder" for stage in bench.stages):
        return bench.skipped("encoder", "the plan has no encoder stage")
    if bench.scope.tower:
        return bench.skipped("encoder", bench.scope.tower)
    assert bench.subject.tower is not None  # else attaching refuses encoder stages
    total = _halves(bench.subject, bench.subject.tower)
    for seen in bench.forwards:
        run = FullRun(bench.subject, bench.stages, seen, bench.scope)
        with run.installed():
            bench.subject.call(seen.inputs)
        if seen.states is not None and run.tower is not None:
            total.add(seen.states, run.tower.survivors())
    compared = f"blocks and their halves; states of {counted(_images(bench), 'image')}"
    compared += f" behind block {bench.subject.used - 1}"
    return bench.judged("encoder", total, compared)


def _halves(subject: VerifiedModel, tower: EncoderAdapter) -> Difference:
    """Every block against its halves as the adapter names them, on all patches."""
    beside = HalvesBesideBlocks(tower, subject.used)
    with Patches() as patches:
        beside.install(patches)
        subject.call(subject.inputs(subject.samples[:1]))
    return beside.difference


def prefill(bench: Bench) -> InvariantRow:
    """Logits at the places of all tokens that go through all layers, of the whole prompt."""
    reason = _no_reference(bench)
    if reason:
        return bench.skipped("prefill", reason)
    total, places, hidden = Difference(), 0, 0
    for seen in bench.forwards:
        run = FullRun(bench.subject, bench.stages, seen, bench.scope)
        with run.installed():
            full = bench.subject.call(seen.inputs)
        stays = run.fate().stays.to(full.device)
        places, hidden = places + int(stays.sum()), hidden + int((~stays).sum())
        total.add(seen.output[:, stays], full[:, stays])
    compared = f"logits at {places} places of {counted(len(bench.forwards), 'prompt')}"
    compared += f", {hidden} hidden"
    return bench.judged("prefill", total, compared, note=_given(bench))


def decoding(bench: Bench) -> InvariantRow:
    """Logits of every step of greedy generation with a cache."""
    reason = _no_reference(bench)
    if reason:
        return bench.skipped("decoding", reason)
    total, steps = Difference(), 0
    for seen, (tokens, full) in zip(bench.generations, bench.references, strict=True):
        # behind a step with another token the two runs go on from other prompts
        shared = _shared(seen, tokens, bench.subject.new_tokens) + 1
        for mine, reference in zip(seen.steps[:shared], full[:shared], strict=True):
            total.add(mine, reference)
            steps += 1
    compared = f"logits of {counted(steps, 'step')} of {counted(len(bench.generations), 'prompt')}"
    return bench.judged("decoding", total, compared, note=_given(bench))


def generation(bench: Bench) -> InvariantRow:
    """The prompt as it was given, then the tokens of the reference; near ties may fall apart."""
    if bench.subject.mllm is None:
        return bench.skipped("generation", "an encoder generates nothing")
    total, faults, ties = Difference(), [], 0
    for number, seen in enumerate(bench.generations):
        prompt = seen.inputs[names.PROMPT]
        if _count(total, seen.output[:, : -bench.subject.new_tokens], prompt):
            faults.append(f"prompt {number} doesn't come back first, as it was given")
    reason = _no_reference(bench)
    pairs = [] if reason else list(zip(bench.generations, bench.references, strict=True))
    for number, (seen, (tokens, full)) in enumerate(pairs):
        new = slice(-bench.subject.new_tokens, None)
        if not torch.equal(seen.output[:, new], tokens[:, new]) and _tie(bench, seen, tokens, full):
            ties += 1
        elif _count(total, seen.output[:, new], tokens[:, new]):
            faults.append(f"prompt {number} goes on with other tokens")
    compared = f"{counted(len(bench.generations), 'prompt')} and {bench.subject.new_tokens} tokens"
    notes = [f"only that the prompt comes first; {reason}"] if reason else [_given(bench)]
    notes += [f"{counted(ties, 'prompt')} parted at a tie within the tolerance"] if ties else []
    note = "; ".join(part for part in notes if part)
    return bench.judged("generation", total, compared, tolerance=0.0, faults=faults, note=note)


def _count(total: Difference, found: Tensor, wanted: Tensor) -> int:
    """Tokens that differ from those wanted, added to the difference; all if the lengths do."""
    same = found.shape == wanted.shape
    differing = int((found != wanted).sum()) if same else wanted.numel()
    total.value, total.values = total.value + differing, total.values + wanted.numel()
    return differing


def _shared(seen: SeenCall, tokens: Tensor, new_tokens: int) -> int:
    """New tokens before the first one that differs from the reference's."""
    same = seen.output[0, -new_tokens:] == tokens[0, -new_tokens:]
    return int(same.cumprod(0).sum())


def _tie(bench: Bench, seen: SeenCall, tokens: Tensor, full: list[Tensor]) -> bool:
    """Whether logits at the first step with another token are equal within the tolerance."""
    step = _shared(seen, tokens, bench.subject.new_tokens)
    return share(seen.steps[step], full[step]) <= bench.tolerance


def _no_reference(bench: Bench) -> str:
    return "an encoder has no prompt" if bench.subject.mllm is None else bench.scope.llm


def _given(bench: Bench) -> str:
    reason = bench.scope.given
    return f"of the LLM alone, on the pruned run's own visual features: {reason}" if reason else ""


def _images(bench: Bench) -> int:
    return sum(len(seen.images) for seen in bench.forwards)
