"""The full-length run that a shortened one is compared with, on the model without the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tokenprune.engine.patching import Patches
from tokenprune.engine.stages import ResolvedStage
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.strategy import placement
from tokenprune.lab.verify import names
from tokenprune.lab.verify.observing import SeenCall
from tokenprune.lab.verify.subject import VerifiedModel
from tokenprune.lab.verify.tower import FullTower, TowerStep
from tokenprune.plan import Plan, numbering
from tokenprune.testing.plain.fate import Fate, fate_of
from tokenprune.testing.plain.features import give
from tokenprune.testing.plain.hiding import HiddenKeys
from tokenprune.testing.plain.taps import Answer


@dataclass(frozen=True)
class MaskScope:
    """What of a plan the full-length run can reproduce by itself.

    Attributes:
        tower: why the encoder's part can't be; empty if it can.
        features: why what stands between encoder and LLM can't be; empty if it can.
        llm: why the LLM's part can't be; empty if it can.
    """

    tower: str
    features: str
    llm: str

    @property
    def given(self) -> str:
        """Why the LLM's visual inputs are taken from the pruned run; empty if they aren't."""
        return self.tower or self.features


def scope_of(plan: Plan, answers: Sequence[Answer], *, followed: bool, unhidden: str) -> MaskScope:
    """What can be reproduced, from what the strategies answered.

    Args:
        plan: the plan.
        answers: of one call.
        followed: whether the encoder can be run block by block on whole pictures.
        unhidden: see `MllmSpec.unhidden`.
    """
    encoder = [answer for answer in answers if answer.site.stage == "encoder"]
    between = [answer for answer in answers if answer.site.stage == "pre_llm"]
    inside = [answer for answer in answers if answer.site.stage == "decoder"]
    tower = features = llm = ""
    for answer in encoder:
        if answer.restores:
            tower = f"{answer.strategy} reconstructs what it dropped"
        elif answer.creates:
            tower = f"{answer.strategy} makes states of its own"
        elif not answer.by_size:
            tower = f"{answer.strategy} weighs what it merges by something else than sizes"
    if encoder and not followed:
        tower = "the encoder sees pictures in pieces, or packs them, and isn't run a second time"
    if encoder and plan.images == "frames":
        tower = "the encoder's tokens are followed image by image, not as frames of a video"
    for answer in between:
        if answer.creates or answer.averages:
            features = f"{answer.strategy} merges or makes tokens in front of the LLM"
    for answer in inside:
        if answer.creates or answer.averages:
            llm = f"{answer.strategy} merges or makes tokens inside the LLM"
    renumbered = [str(said) for said in numbering(plan).stated if said.positions == "compact"]
    if renumbered:
        llm = f"positions are renumbered: {renumbered[0]}, which no full-length run has"
    return MaskScope(tower, features, unhidden or llm)


class FullRun:
    """The reference of one observed call.

    Args:
        subject: the model, without the plan.
        stages: the plan's stages.
        seen: the observed call, of one sample.
        scope: what is reproduced; the rest is taken from the observed call.
    """

    def __init__(
        self,
        subject: VerifiedModel,
        stages: Sequence[ResolvedStage],
        seen: SeenCall,
        scope: MaskScope,
    ) -> None:
        self.subject, self.seen, self.scope = subject, seen, scope
        self.tower: FullTower | None = None
        if subject.tower is not None:
            self.tower = FullTower(subject.tower, subject.used, _tower_steps(stages, seen))
        trimming = [
            answer.site.layer
            for answer in seen.answers
            if answer.site.stage == "decoder" and _strategy(stages, answer).trims_cache()
        ]
        self.trimmed = max(trimming, default=-1)

    def fate(self) -> Fate:
        """When the prompt's tokens leave the LLM."""
        seen = self.seen
        stands = self.subject.stands(seen.inputs, seen.shown)
        length = seen.inputs[names.PROMPT].shape[1]
        return fate_of(length, stands, seen.images, seen.answers, self.trimmed)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Make the model's next call, or generation, the reference."""
        with Patches() as patches:
            if self.tower is not None and not self.scope.tower:
                self.tower.install(patches)
            spec, adapter = self.subject.mllm, self.subject.adapter
            if spec is not None and isinstance(adapter, MllmAdapter):
                HiddenKeys(adapter, self.fate()).install(patches)
                if spec.partial:
                    patches.override(spec.language_model, "forward", _whole(adapter))
                if self.scope.given:
                    give(patches, spec, self.seen.features)
            yield


def _whole(adapter: MllmAdapter) -> Callable[..., Any]:
    """A call of the LLM with the states of all its tokens, as a pruned run has them."""

    def forward(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        args, kwargs = adapter.write_llm(adapter.read_llm(args, kwargs), args, kwargs)
        return original(*args, **kwargs)

    return forward


def _tower_steps(stages: Sequence[ResolvedStage], seen: SeenCall) -> list[TowerStep]:
    answers = {answer.site: answer for answer in seen.answers}
    found = []
    for record in seen.trace.records:
        if record.site.stage != "encoder" or record.slot is None:
            continue
        answer = answers[record.site]
        strategy = _strategy(stages, answer)
        found.append(
            TowerStep(
                block=record.site.layer,
                inside=placement(strategy, "encoder").where == "inside",
                slot=record.slot,
                anchor=record.anchor,
                averages=answer.averages,
                proportional=strategy.proportional(),
            )
        )
    return found


def _strategy(stages: Sequence[ResolvedStage], answer: Answer) -> Any:
    return next(stage.strategy for stage in stages if stage.number == answer.stage)
