"""The text tower that a plan names: what its space says of visual tokens and questions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from tokenprune.engine.images import ImageTokens
from tokenprune.engine.llm.question import Questions
from tokenprune.engine.llm.state import MllmState
from tokenprune.engine.pre_llm.stages import ImageBatch
from tokenprune.engine.stages import ResolvedStage
from tokenprune.engine.text_towers import named_text_tower
from tokenprune.errors import CheckpointError, UnsupportedModelError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.signals import Signal, TowerSpace, read
from tokenprune.interface.sites import Site
from tokenprune.interface.specs import EncoderSpec
from tokenprune.interface.text_tower import TextTower, TowerChoice
from tokenprune.plugins.hookspecs import TEXT_TOWERS
from tokenprune.plugins.host import host


class TextTowerReader:
    """Reads every question once in the text tower's space, beside the visual tokens.

    Args:
        signals: those of the text tower that the plan's stages ask for.
        choice: what the plan says of it.
        where: the stage that says so.
        adapter: the model's family.
        encoder: the vision tower as data.

    Raises:
        TokenpruneError: the text tower, or the model's tokenizer, can't be had.
        CheckpointError: it is of a wider or narrower vision tower.
    """

    def __init__(
        self,
        signals: Sequence[Signal],
        choice: TowerChoice,
        where: str,
        adapter: MllmAdapter,
        encoder: EncoderSpec,
    ) -> None:
        self.signals = signals
        self.words = adapter.reader(choice.tokenizer)
        self.text_tower = _loaded(choice.target, where)
        if self.text_tower.width != encoder.width:
            raise CheckpointError(
                f"{choice.target} has visual tokens of width {self.text_tower.width}, and this "
                f"{type(encoder.entry).__name__} has {encoder.width}.",
                where=where,
                remedy="Name the dual encoder that the vision tower is a half of.",
            )
        _place(self.text_tower.module, encoder.entry)

    def add(
        self,
        state: MllmState,
        entered: ImageBatch,
        images: Sequence[ImageTokens],
        questions: Questions,
    ) -> None:
        """Put the signals beside the images as they leave the encoder.

        Args:
            state: the running call's.
            entered: all images, in order.
            images: the same, one by one.
            questions: of the model.

        Raises:
            UnsupportedCallError: there is no question.
        """
        words = questions.words(state, images, self.words)
        different = list(dict.fromkeys(words))
        number = [different.index(one) for one in words]
        features = entered.hidden[:, entered.state.prefix :]

        def encode(cut: bool) -> list[Tensor]:
            found = self.text_tower.encode(different, cut=cut)
            return [found[one].to(features.device) for one in number]

        found = read(self.signals, TowerSpace(self.text_tower.project(features), encode))
        own = {signal.name for signal in self.signals if signal.per_token}
        tokens = {name: value for name, value in found.items() if name in own}
        entered.state.signals = {**entered.state.signals, **tokens}
        whole = {name: value for name, value in found.items() if name not in own}
        entered.shared = {**entered.shared, **whole}


def text_tower_reader(
    stages: Sequence[ResolvedStage], site: Site, adapter: MllmAdapter, encoder: EncoderSpec
) -> TextTowerReader | None:
    """The reader for the text tower that the pre-LLM stages of a plan name; None if none needs one.

    Args:
        stages: the plan's pre-LLM stages.
        site: where they act.
        adapter: the model's family.
        encoder: the vision tower as data.

    Raises:
        PlanError: see `named_text_tower`.
        TokenpruneError: see `TextTowerReader`.
    """
    found = named_text_tower(stages, site)
    return None if found is None else TextTowerReader(*found, adapter, encoder)


def _loaded(target: str, where: str) -> TextTower:
    known = host().things(TEXT_TOWERS)
    for kind in known.values():
        text_tower = kind.load(target)
        if text_tower is not None:
            return text_tower
    raise UnsupportedModelError(
        f"{target} is no dual encoder whose text tower can be read.",
        where=where,
        remedy=f"Text towers that can: {', '.join(known) or 'none is installed'}.",
    )


def _place(text_tower: nn.Module, beside: nn.Module) -> None:
    """Put a text tower on the device of the vision tower, if that is on one."""
    example = next(beside.parameters(), None)
    if example is not None and example.device.type != "meta":
        text_tower.to(example.device)
