"""The MLLM side of an attachment: what is overridden on the model, and in which order it acts.

`generate` runs with the user's own prompt. The projector's output keeps the plain shape, with the
removed tokens' places empty; around the LLM the sequence is shortened, and its states are spread
out again. So prompts, beams, streamers, labels and logits are those of the plain model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokenprune.engine.call import CallState, calling, current, stepping
from tokenprune.engine.coupling import couple
from tokenprune.engine.encoder.passes import in_pass
from tokenprune.engine.llm.attending import read_heads
from tokenprune.engine.llm.checks import decoder_stages, refuse_compact, refuse_stages
from tokenprune.engine.llm.features import FeatureSeam
from tokenprune.engine.llm.fixed import Fixed, Step, begun
from tokenprune.engine.llm.projector_seam import ProjectorSeam
from tokenprune.engine.llm.prompt import Prompt
from tokenprune.engine.llm.refusals import (
    check_drafted,
    check_forward,
    check_generate,
    check_owner,
    check_reach,
    check_readable,
    no_turns,
)
from tokenprune.engine.llm.runner import LanguageRunner
from tokenprune.engine.llm.state import MllmState, state_of
from tokenprune.engine.recomputing import refuse_around
from tokenprune.engine.stages import behind_dynamic
from tokenprune.engine.standing import Standing
from tokenprune.engine.steps import in_steps
from tokenprune.engine.tracers import refuse_export
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.calls import Entry, PromptCall

if TYPE_CHECKING:
    from tokenprune.engine.attachment import Attachment

_ORDER: dict[Entry, int] = {"generate": 0, "model": 1, "core": 2}
"""In which order the methods of a model call one another."""


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
        refuse_stages(owner.plan, owner.stages, self.spec)
        owner.stages = in_steps(owner.stages, len(self.spec.layers))
        owner.stages = couple(behind_dynamic(owner.stages), len(self.spec.layers))
        owner.claim(owner.model, self.spec.core)
        self.seam = (
            FeatureSeam(owner, adapter) if self.spec.modalities else ProjectorSeam(owner, adapter)
        )
        stages = decoder_stages(owner.stages, self.spec, adapter, self.seam.runner)
        read_heads(owner.heads, stages, adapter, self.spec)
        refuse_compact(owner.plan, self.spec)
        self.language = LanguageRunner(owner, adapter, self.spec, stages)

    def install(self) -> None:
        """Override methods of this instance's parts."""
        patches, spec = self.owner.patches, self.spec
        self.seam.install(patches)
        patches.override(spec.core, "forward", self._core)
        if self.owner.model is not spec.core:
            patches.override(self.owner.model, "forward", self._outer)
        if hasattr(self.owner.model, "generate"):
            patches.override(self.owner.model, "generate", self._generate)
        if self.owner.stages and spec.prepares is not None:
            patches.override(self.owner.model, spec.prepares, self._prepare)
        for name in spec.refused_methods if self.owner.stages else ():
            if hasattr(self.owner.model, name):
                patches.override(self.owner.model, name, self._refused(name))
        self.language.install(patches)
        self.standing = Standing(self.owner.model, patches.modules)

    def _require(self) -> None:
        """Refuse a call of a model whose parts aren't those that the plan was attached to."""
        refuse_export(self.owner.model)
        self.standing.require()
        if not torch.compiler.is_dynamo_compiling():  # it would guard every weight for it
            self.owner.heads.require(self.owner.model)

    def _refused(self, name: str) -> Callable[..., Any]:
        """What stands for a method that can't be served."""
        why = self.spec.refused_methods[name]

        def refuse(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            raise UnsupportedCallError(why.reason, where=name, remedy=why.remedy)

        return refuse

    def _generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = self.adapter.read_prompt("generate", args, kwargs)
        if self.owner.stages:
            check_generate(self.spec, given, fixed=self._fixed(given) is not None)
            self._require()
        with calling(self.owner, apart=self._apart("generate", given)) as call:
            state = state_of(call)
            state.given = given  # images may be encoded before the first forward
            state.prompted = 0 if given.ids is None else given.ids.shape[1]
            state.standing = bool(self.owner.stages)
            state.makes_cache = given.cache is None
            with self.adapter.generating() if self.owner.stages else nullcontext():
                try:
                    return self._run("generate", state, original, *args, **kwargs)
                finally:
                    self._close(state.filled)

    def _prepare(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Note the padding mask, of which `generate` makes others for a cache of fixed length."""
        call = current(self.owner)
        if call is not None:
            state = state_of(call)
            state.prepared, state.padding = True, self.adapter.padding(args, kwargs)
            if not state.prefilled:
                made = original(*args, **kwargs)
                state.made = self.adapter.read_prompt("model", (), made)
                return made
        return original(*args, **kwargs)

    def _close(self, cache: Any) -> None:
        """The masks of whoever uses a cache of fixed length from now on aren't of `generate`.

        A cache in which nothing was removed serves every model, as without a plan.
        """
        note = None if cache is None else self.adapter.cache_mark(cache)
        if isinstance(note, Fixed):
            note.generated = False
            if note.layout is None:
                self.adapter.mark_cache(cache, None)

    def _outer(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = self.adapter.read_prompt("model", args, kwargs)
        with self._called("model", given) as call:
            if self._fixed(given) is not None:
                return original(*args, **kwargs)
            state = state_of(call)
            state.given = replace(state.given, labels=given.labels)
            return self._reaching("model", state, original, *args, **kwargs)

    def _core(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = self.adapter.read_prompt("core", args, kwargs)
        with self._called("core", given) as call:
            note = self._fixed(given)
            if note is not None:
                return self._step(call, note, given, original, *args, **kwargs)
            state = state_of(call)
            if self._fills(state, given):
                return self._fill(call, given, original, *args, **kwargs)
            if not state.prefilled:
                state.first = given
            if self.owner.stages:
                refuse_around(self.owner.model, "model")
                self._check(state, given)
                if self.spec.masks and self.adapter.cache_mark(given.cache) is not None:
                    # no mask fits all layers of a shortened cache: each gets its own
                    bare = replace(given, mask=None)
                    args, kwargs = self.adapter.write_prompt("core", bare, args, kwargs)
            elif state.given.ids is None:
                # tiles are counted as the prompt's pictures also where nothing is pruned
                state.given = replace(given, labels=self._labels(state, given))
            if not state.prefilled:
                return self._reaching("core", state, original, *args, **kwargs)
            with _untraced(call):  # without cache the model may encode its images at every step
                return self._run("core", state, original, *args, **kwargs)

    def _called(self, entry: Entry, given: PromptCall) -> AbstractContextManager[CallState]:
        """The call that a forward belongs to."""
        if self._fixed(given) is not None:
            return stepping(self.owner)
        return calling(self.owner, apart=self._apart(entry, given))

    def _fixed(self, given: PromptCall) -> Fixed | None:
        """The note on the cache of a call, if it is one of fixed length that a prompt is in."""
        note = None if given.cache is None else self.adapter.cache_mark(given.cache)
        return note if isinstance(note, Fixed) else None

    def _fills(self, state: MllmState, given: PromptCall) -> bool:
        """Whether a call's prompt is the first to enter a cache of fixed length.

        A caller's own mask for every layer, which is as long as the cache, says nothing of that.
        """
        padding = given.mask is None or getattr(given.mask, "ndim", 0) == 2
        wanted = bool(self.owner.stages) and given.preallocated and (state.prepared or padding)
        return wanted and not self.adapter.cached_length(given.cache)

    def _fill(
        self,
        call: CallState,
        given: PromptCall,
        original: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Run a prompt with a cache that grows, and move what is left to that of fixed length."""
        state, cache = state_of(call), given.cache
        grown = self.adapter.growing_cache(cache)
        new = replace(given, cache=grown, mask=state.padding if state.prepared else given.mask)
        args, kwargs = self.adapter.write_prompt("core", new, args, kwargs)
        outputs = self._core(original, *args, **kwargs)
        layout = self.adapter.cache_mark(grown)
        made = layout is not None and state.makes_cache
        if layout is not None and not made:
            free = self.adapter.slots(cache, layout.base) - layout.entry.length
            check_reach(self.spec, given, layout.length + free)
        self.adapter.fill_cache(cache, grown, layout.length if made else None)
        if layout is not None or state.prepared:
            note = Fixed.of(
                self.language.token,
                layout,
                partial(self.adapter.slots, cache),
                self.adapter.held(cache, self.spec.base, 0).device,
                self.spec.windows,
            )
            note.generated = state.prepared
            self.adapter.mark_cache(cache, note)
            state.filled = cache
        return self.adapter.put_cache(outputs, cache, grown)

    def _step(
        self,
        call: CallState,
        note: Fixed,
        given: PromptCall,
        original: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """New tokens of text behind a cache of fixed length."""
        check_owner(note.owner, self.language.token, given.cache_name)
        turns = no_turns(self.spec, untold="", fixed=True)
        check_forward(
            self.spec, given, has_placeholders=given.pictured, known=True, cached=1, turns=turns
        )
        call.put(begun(note, given))
        try:
            return original(*args, **kwargs)
        finally:
            call.drop(Step)

    def _check(self, state: MllmState, given: PromptCall) -> None:
        """Refuse a call of the core that can't be served; else it is the one that is running."""
        check_readable(self.spec, given.ids)
        cached = self.adapter.cached_length(given.cache)
        state.given = replace(given, labels=self._labels(state, given))
        # behind a cache, new tokens are text wherever placeholders would be refused or wrong, so
        # nothing waits for their values
        step = cached and not (given.pictured or given.encoded or given.packed)
        marked = given.ids is not None and not step and bool(len(state.read(self.spec).found))
        check_forward(
            self.spec,
            given,
            has_placeholders=marked,
            known=bool(state.pictures),
            cached=cached,
            turns=no_turns(self.spec, untold=self.language.untold, fixed=given.preallocated),
        )
        if not marked:
            state.given = replace(state.given, ids=None)

    def _labels(self, state: MllmState, given: PromptCall) -> Tensor | None:
        """Those that the model with its head was called with, which may be the core itself.

        Tokens that `generate` drafted behind its prompt are labelled as answers are: they take no
        part in the choice.
        """
        prompt, ids = state.prompted, given.ids
        if prompt and ids is not None and ids.shape[1] > prompt and not state.prefilled:
            check_drafted(self.spec, trims=self.language.trim > 0)
            return torch.cat((torch.full_like(ids[:, :prompt], -100), ids[:, prompt:]), dim=1)
        return given.labels if self.owner.model is self.spec.core else state.given.labels

    def _apart(self, entry: Entry, given: PromptCall) -> bool:
        """Whether a call is running that this one is no part of, but about something else.

        Contrastive decoding asks about another picture inside of `generate`, for example, and a
        streamer or a hook may ask about anything. Steps of `generate` go on with a cache, or repeat
        the prompt with what was generated behind it.

        Args:
            entry: which method is called.
            given: what it was called with.
        """
        call = current(self.owner)
        if call is None or in_pass(call):  # no tower calls the model around it
            return call is not None
        state = call.state(MllmState)
        if state is None or state.running is None:
            return False
        if _ORDER[entry] <= _ORDER[state.running]:
            # no forward calls itself, and none calls `generate`
            again = entry == state.running == "generate" and not state.prefilled
            return not (again and given.continues(state.given))
        if state.running != "generate":
            return False
        if not state.prefilled:
            # `generate` makes the arguments of its own forwards, and nothing runs before that
            made = state.made if state.prepared else state.given
            return self.spec.prepares is not None and not given.continues(made)
        if self.adapter.cached_length(given.cache):
            return self._shows(given)  # a step behind the cache is text, and no turn of a chat
        return not given.continues(state.first)

    def _shows(self, given: PromptCall) -> bool:
        """Whether a forward brings pictures, and placeholders for them."""
        if given.ids is None or not (given.pictured or given.encoded):
            return False
        return bool(len(Prompt(given, self.spec).found))

    def _reaching(
        self,
        entry: Entry,
        state: MllmState,
        original: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Call what runs the LLM, for the first time in this call, if all parts are in place."""
        if self.owner.stages and not state.standing:
            self._require()
            state.standing = True
        return self._run(entry, state, original, *args, **kwargs)

    @staticmethod
    def _run(
        entry: Entry,
        state: MllmState,
        original: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Call the model's own method, and know meanwhile that it is running."""
        before, state.running = state.running, entry
        try:
            return original(*args, **kwargs)
        finally:
            state.running = before


@contextmanager
def _untraced(call: CallState) -> Iterator[None]:
    """Forget what is traced inside."""
    images, reductions = len(call.trace.grids), len(call.trace.records)
    yield
    call.trace.forget(images, reductions)
