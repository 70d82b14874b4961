"""The MLLM side of an attachment: what is overridden on the model, and in which order it acts.

`generate` runs with the user's own prompt. The projector's output keeps the plain shape, with the
removed tokens' places empty; around the LLM the sequence is shortened, and its states are spread
out again. So prompts, beams, streamers, labels and logits are those of the plain model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tokenprune.engine.adapters import choose_encoder
from tokenprune.engine.call import CallState, calling, current
from tokenprune.engine.checks import refuse_checkpointing
from tokenprune.engine.coupling import couple
from tokenprune.engine.encoder.install import claim, encoder_runner
from tokenprune.engine.images import ImageTokens
from tokenprune.engine.llm.checks import (
    decoder_stages,
    feature_prefix,
    refuse_depths,
    refuse_frames,
)
from tokenprune.engine.llm.question import Questions
from tokenprune.engine.llm.refusals import check_forward, check_generate
from tokenprune.engine.llm.runner import LanguageRunner
from tokenprune.engine.llm.state import MllmState
from tokenprune.engine.pre_llm.projector import images_of, place, project, split_at_projector
from tokenprune.engine.pre_llm.stages import count_left, enter, run_stages, whole_videos
from tokenprune.engine.stages import behind_dynamic
from tokenprune.engine.videos import Videos, videos_of
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.signals import Question, read
from tokenprune.interface.tokens import Site

if TYPE_CHECKING:
    from tokenprune.engine.attachment import Attachment


def install(owner: Attachment, adapter: MllmAdapter) -> None:
    """Put the attachment's plan in force on a multimodal LLM.

    Raises:
        TokenpruneError: the plan doesn't fit the model; see `tokenprune.attach`.
    """
    MllmRunner(owner, adapter).install()


class MllmRunner:
    """Everything the engine does in a multimodal LLM outside of its encoder and LLM.

    Args:
        owner: the attachment it belongs to.
        adapter: the model's family.
    """

    def __init__(self, owner: Attachment, adapter: MllmAdapter) -> None:
        self.owner, self.adapter, self.spec = owner, adapter, adapter.spec()
        refuse_depths(owner.stages, self.spec)
        owner.stages = couple(behind_dynamic(owner.stages), len(self.spec.layers))
        claim(owner, owner.model, self.spec.core)
        tower = choose_encoder(self.spec.tower)
        self.encoder = encoder_runner(
            owner, tower, tower.spec(), self.spec.used, self.spec.supplies
        )
        self.encoder.videos = self._videos
        self.prefix = feature_prefix(self.spec, self.encoder.spec)
        refuse_frames(owner.plan, owner.stages, self.encoder.spec, self.prefix)
        self.features, self.projected = split_at_projector(owner.stages_at("pre_llm"))
        site = Site("pre_llm", self.encoder.spec.used, self.encoder.spec.used)
        later = (*self.features, *self.projected)
        wanted = {signal for stage in later for signal in stage.strategy.signals(site)}
        self.asked = sorted((one for one in wanted if one.reads(Question)), key=str)
        self.questions = Questions(adapter, self.spec)
        stages = decoder_stages(owner.stages, self.spec, adapter, self.encoder)
        self.language = LanguageRunner(owner, adapter, self.spec, stages)

    def install(self) -> None:
        """Override methods of this instance's parts."""
        patches, spec = self.owner.patches, self.spec
        self.encoder.install(patches)
        patches.override(spec.projector, "forward", self._project)
        patches.override(spec.core, "forward", self._core)
        if self.owner.model is not spec.core:
            patches.override(self.owner.model, "forward", self._outer)
        if hasattr(self.owner.model, "generate"):
            patches.override(self.owner.model, "generate", self._generate)
        self.language.install(patches)

    def _videos(self, call: CallState, images: int, patches: int) -> Videos | None:
        if self.owner.plan.images != "frames" or not self.owner.stages:
            return None
        state = call.state(MllmState)
        ids = None if state is None else state.given.ids
        names = self.spec.names
        return videos_of(ids, self.spec.placeholder_id, images, patches, names)

    def _generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = self.adapter.read_prompt("generate", args, kwargs)
        if self.owner.stages:
            marked = given.cache is not None and self.adapter.cache_mark(given.cache) is not None
            check_generate(self.spec, given, marked=marked)
        with calling(self.owner) as call:
            _state(call).given = given  # images may be encoded before the first forward
            return original(*args, **kwargs)

    def _outer(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with calling(self.owner) as call:
            state, given = _state(call), self.adapter.read_prompt("model", args, kwargs)
            state.given = replace(state.given, labels=given.labels)
            return original(*args, **kwargs)

    def _core(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with calling(self.owner) as call:
            state = _state(call)
            if self.owner.stages:
                refuse_checkpointing(self.owner.model, "layers", "model")
                given = self.adapter.read_prompt("core", args, kwargs)
                ids = given.ids
                marked = ids is not None and bool((ids == self.spec.placeholder_id).any())
                check_forward(
                    self.spec,
                    given,
                    has_placeholders=marked,
                    known=state.images is not None,
                    cached=self.adapter.cached_length(given.cache),
                )
                ids = ids if marked else None
                state.given = replace(given, ids=ids, labels=state.given.labels)
            if not state.prefilled:
                return original(*args, **kwargs)
            with _untraced(call):  # without cache the model may encode its images at every step
                return original(*args, **kwargs)

    def _project(self, original: Callable[..., Any], features: Tensor) -> Any:
        call, names = current(self.owner), self.spec.names
        state = None if call is None else call.state(MllmState)
        if call is not None and not self.owner.stages:
            _count_dense(call, features.shape[0], features.shape[1] - self.prefix)
            with call.meter.stage("project"):
                return original(features)
        if call is None or state is None:
            if self.features or self.projected:
                raise UnsupportedCallError(
                    "image features alone can't be pruned here: their signals are gone.",
                    where="projector",
                    remedy=f"Call generate or forward of the model, with {names.pictures}.",
                )
            return original(features)
        used = self.encoder.spec.used
        entered = enter(call, features, self.prefix)
        if self.asked:
            with call.meter.stage("select"):
                answers = self.questions.states(state, list(images_of(entered)))
                entered.shared = read(self.asked, Question(answers.to(features.device)))
        groups = run_stages(call, self.features, [entered], used)
        with call.meter.stage("project"):
            groups = project(groups, original)
        groups = whole_videos(run_stages(call, self.projected, groups, used))
        if self.features or self.projected:
            count_left(call, groups)
        with call.meter.stage("project"):
            projected, state.images = place(groups)
        _count_llm(call, state.images)
        return projected


def _state(call: CallState) -> MllmState:
    state = call.state(MllmState)
    if state is None:
        state = MllmState()
        call.put(state)
    return state


@contextmanager
def _untraced(call: CallState) -> Iterator[None]:
    """Forget what is traced inside."""
    grids, records = call.trace.grids, call.trace.records
    images, reductions = len(grids), len(records)
    yield
    del grids[images:], records[reductions:]


def _count_dense(call: CallState, images: int, patches: int) -> None:
    for name in ("llm", "llm_average"):
        call.meter.count(name, images * patches, images)


def _count_llm(call: CallState, images: list[ImageTokens]) -> None:
    frames = sum(image.grid[0] for image in images)
    call.meter.count("llm", sum(image.index.shape[0] for image in images), frames)
