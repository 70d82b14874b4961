"""Where a vision tower's features go through the projector: stages in front of and behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tokenprune.engine.adapters import choose_encoder
from tokenprune.engine.call import CallState, current
from tokenprune.engine.encoder.install import encoder_runner
from tokenprune.engine.encoder.surroundings import Surroundings
from tokenprune.engine.images import count_pictures
from tokenprune.engine.llm.checks import feature_prefix, refuse_frames
from tokenprune.engine.llm.embedded_text import EmbeddedText
from tokenprune.engine.llm.question import Questions
from tokenprune.engine.llm.sharing import prompts_of
from tokenprune.engine.llm.state import MllmState
from tokenprune.engine.llm.text_tower_reader import text_tower_reader
from tokenprune.engine.patching import Patches
from tokenprune.engine.pre_llm.projector import images_of, place, project, split_at_projector
from tokenprune.engine.pre_llm.stages import count_left, image_batch, run_stages, whole_videos
from tokenprune.engine.recomputing import refuse_repeated
from tokenprune.engine.stages import wanted
from tokenprune.engine.videos import Videos, videos_of
from tokenprune.errors import UnsupportedCallError, UnsupportedModelError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.signals import Question, read
from tokenprune.interface.sites import Site

if TYPE_CHECKING:
    from tokenprune.engine.attachment import Attachment


class ProjectorSeam(Surroundings):
    """Encoder and pre-LLM stages of a model whose tokens can be followed through its projector.

    Args:
        owner: the attachment it belongs to.
        adapter: the model's family.

    Raises:
        UnsupportedModelError: the tower reads all pictures as one sequence.
    """

    def __init__(self, owner: Attachment, adapter: MllmAdapter) -> None:
        self.owner, self.spec = owner, adapter.spec()
        encoder = choose_encoder(self.spec.tower)
        if encoder.spec().packed:
            raise UnsupportedModelError(
                "the tower puts all pictures of a call into one sequence, which isn't followed "
                "through the projector of this model.",
                where=type(self.spec.tower).__name__,
                remedy="Use a tower that reads every picture by itself.",
            )
        self.runner = encoder_runner(
            owner, encoder, encoder.spec(), self, self.spec.used, self.spec.supplies
        )
        self.prefix = feature_prefix(self.spec, self.runner.spec)
        refuse_frames(owner.plan, owner.stages, self.runner.spec, self.prefix)
        self.features, self.projected = split_at_projector(owner.stages_at("pre_llm"))
        self.site = Site.behind(self.runner.spec.used)
        later = (*self.features, *self.projected)
        self.asked = wanted(later, self.site, Question)
        self.questions = Questions(adapter, self.spec)
        self.reader = text_tower_reader(later, self.site, adapter, self.runner.spec)
        self.text = EmbeddedText(adapter, self.spec, later, self.site)

    def install(self, patches: Patches) -> None:
        """Override methods of tower and projector."""
        self.runner.install(patches)
        patches.override(self.spec.projector, "forward", self._project)

    def videos(self, call: CallState, images: int, units: int) -> Videos | None:
        """Which images of the tower's batch are frames of one video, if the plan says that.

        Raises:
            UnsupportedCallError: no prompt says it; see `videos_of`.
        """
        if self.owner.plan.images != "frames" or not self.owner.stages:
            return None
        state = call.state(MllmState)
        ids = None if state is None else state.ids(self.spec)
        names = self.spec.names
        return videos_of(ids, self.spec.placeholder_id, images, units, names)

    def _project(self, original: Callable[..., Any], features: Tensor) -> Any:
        call = current(self.owner)
        if call is not None and not self.owner.stages:
            _count_dense(call, features.shape[0], features.shape[1] - self.prefix)
            with call.meter.stage("project"):
                return original(features)
        state = None if call is None else call.state(MllmState)
        if call is None or state is None:
            self._refuse_alone()
            return original(features)
        entered = image_batch(call, features, self.prefix)
        if self.asked:
            with call.meter.stage("select"):
                answers = self.questions.states(state, list(images_of(entered)))
                entered.shared = read(self.asked, Question(answers.to(features.device)))
        if self.reader is not None:
            with call.meter.stage("select"):
                images = list(images_of(entered))
                self.reader.add(state, entered, images, self.questions)
        if self.text.asked:
            told = self.text.of(state, "image", list(images_of(entered)), features.device)
            entered.shared = {**entered.shared, **told}
        # pictures of this model are of one kind
        prompts = prompts_of(state, self.spec, next(iter(self.spec.placeholders)))
        batches = run_stages(call, self.features, [entered], self.site, prompts)
        with call.meter.stage("project"):
            batches = project(batches, original)
        batches = whole_videos(run_stages(call, self.projected, batches, self.site, prompts))
        if self.features or self.projected:
            count_left(call, batches)
        with call.meter.stage("project"):
            projected, images = place(batches)
        state.pictures = {"image": images}
        count_pictures(call.meter, images)
        return projected

    def _refuse_alone(self) -> None:
        """Refuse features that are projected outside of a call, where the plan acts on them."""
        if self.features or self.projected:
            raise UnsupportedCallError(
                "image features alone can't be pruned here: their signals are gone.",
                where="projector",
                remedy=f"Call generate or forward of the model, with {self.spec.names.pictures}.",
            )
        if self.runner.layout.stages:
            refuse_repeated("the projector", self.owner.model)


def _count_dense(call: CallState, images: int, patches: int) -> None:
    for name in ("llm", "llm_average"):
        call.meter.count(name, images * patches, images)
