"""What all learned strategies share: where their weights come from, training mode, checkpoints."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from pydantic import Field, ValidationError, model_validator
from torch import nn

from tokenprune.errors import CheckpointError
from tokenprune.interface.strategy import StrategyParams
from tokenprune.interface.trainable import TrainableStrategy
from tokenprune_strategies.shared import checkpoint
from tokenprune_strategies.shared.checkpoint import Checkpoint

#: Facts of a checkpoint about the model that it was trained for.
MODEL = ("model", "model_sha256", "model_sample")

#: Defaults of `LearnedParams` that are ours, with the reason.
OURS: dict[str, str] = {
    "other_model": "weights of another model run without an error and choose badly",
}


class LearnedParams(StrategyParams):
    """Parameters of a learned strategy: a checkpoint, or the seed and shape of an untrained start.

    Class attributes:
        SHAPE: parameters that a checkpoint stores; a plan may repeat them, but not differ.
        NEEDS: those without a default, to be given with `init_seed`.
    """

    SHAPE: ClassVar[tuple[str, ...]] = ()
    NEEDS: ClassVar[tuple[str, ...]] = ()

    checkpoint: Path | None = Field(
        default=None,
        description="Trained weights (safetensors), written by save_checkpoint(); or bundled:NAME "
        "for those that ship.",
    )
    init_seed: int | None = Field(
        default=None,
        ge=0,
        description="Start from random weights of this seed, for training; not with a checkpoint.",
    )
    other_model: bool = Field(
        default=False,
        description="Use the checkpoint on another model than the one that it was trained for; "
        "without, it is refused there.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.checkpoint is not None and self.init_seed is not None:
            raise ValueError("give either 'checkpoint' or 'init_seed', not both")
        missing = [f"'{name}'" for name in self.NEEDS if getattr(self, name) is None]
        if self.init_seed is not None and missing:
            raise ValueError(f"'init_seed' needs {' and '.join(missing)}")
        return self


LearnedT = TypeVar("LearnedT", bound=LearnedParams)
ModuleT = TypeVar("ModuleT", bound=nn.Module)


class LearnedStrategy(TrainableStrategy[LearnedT], Generic[LearnedT, ModuleT]):
    """A strategy with a trainable module.

    Attributes:
        shape: the parameters, completed by what the checkpoint says.
        module: what is learned, float32, in evaluation mode.

    Raises:
        CheckpointError: neither a checkpoint nor `init_seed` is given, or the checkpoint is
            damaged, foreign or of another shape.
    """

    def __init__(self, params: LearnedT) -> None:
        super().__init__(params)
        self.shape, self.module = self.load(params)
        self.module.eval()

    @classmethod
    @abstractmethod
    def build(cls, shape: LearnedT) -> ModuleT:
        """The module with fresh weights from the global generator."""

    @classmethod
    def load(cls, params: LearnedT) -> tuple[LearnedT, ModuleT]:
        """The completed parameters and the module they describe.

        Raises:
            CheckpointError: the checkpoint doesn't fit, or there are neither trained weights nor a
                seed for fresh ones.
        """
        if params.checkpoint is not None:
            return _trained(cls, params, checkpoint.locate(params.checkpoint, cls.name))
        if params.init_seed is None:
            needs = ", ".join(f"'{name}'" for name in ("init_seed", *params.NEEDS))
            raise CheckpointError(
                f"{cls.name} is a learned method and can't run without trained weights.",
                where=cls.name,
                remedy=f"Give 'checkpoint', or {needs} to train it.",
            )
        # The user's own random state stays as it was.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(params.init_seed)
            return params, cls.build(params)

    @classmethod
    def shipped(cls) -> Mapping[str, Path]:
        """Checkpoints that ship, by the NAME in `checkpoint: bundled:NAME`."""
        return checkpoint.shipped(cls.name)

    @classmethod
    def trained_for(cls, params: LearnedT) -> Mapping[str, str]:
        """See `TrainableStrategy`.

        Raises:
            CheckpointError: the checkpoint is damaged, or another strategy's.
        """
        if params.checkpoint is None or params.other_model:
            return {}
        facts = checkpoint.read_facts(checkpoint.locate(params.checkpoint, cls.name), cls.name)
        return {name: facts[name] for name in MODEL if name in facts}

    def modules(self) -> ModuleT:
        """Everything that is learned."""
        return self.module

    def train(self, mode: bool = True) -> Self:
        """Set the module's training mode; the encoder and the LLM are left as they are."""
        self.module.train(mode)
        return self

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """What an optimiser updates."""
        return self.module.parameters()

    def save_checkpoint(
        self, path: Path, facts: Mapping[str, str] | None = None, *, half: bool = False
    ) -> None:
        """Write the weights for the parameter `checkpoint`.

        Args:
            path: the file to write.
            facts: more metadata, such as `model`, `keep` or an accuracy.
            half: write float16.

        Raises:
            CheckpointError: a weight isn't finite.
        """
        shape = {name: _text(getattr(self.shape, name)) for name in self.shape.SHAPE}
        checkpoint.save(path, self.module, self.name, {**(facts or {}), **shape}, half=half)


def refuse_width(name: str, what: str, found: int, wanted: int) -> None:
    """Refuse inputs of another width than the weights were made for.

    Raises:
        CheckpointError: naming both widths.
    """
    if found != wanted:
        raise CheckpointError(
            f"its weights are for {what} of width {wanted}, and this model's have {found}.",
            where=name,
            remedy="Use a checkpoint that was trained for this model.",
        )


def _trained(
    strategy: type[LearnedStrategy[LearnedT, ModuleT]], params: LearnedT, path: Path
) -> tuple[LearnedT, ModuleT]:
    found = checkpoint.read(path, strategy.name)
    shape = _completed(params, found)
    try:
        with torch.device("meta"):
            module = strategy.build(shape)
    except (RuntimeError, OverflowError, TypeError) as error:
        raise CheckpointError(
            f"its metadata describes no module that can be built: {error}.", where=str(path)
        ) from error
    checkpoint.fill(module, found)
    return shape, module


def _completed(params: LearnedT, found: Checkpoint) -> LearnedT:
    stored = {name: _value(found.facts.get(name, "")) for name in params.SHAPE}
    try:
        right = type(params).model_validate({**stored, "init_seed": 0})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else params.SHAPE[0]
        raise CheckpointError(
            f"its metadata gives '{name}' as '{found.facts.get(name, '')}': {first['msg']}.",
            where=str(found.path),
            remedy="Save it again with save_checkpoint().",
        ) from error
    for name in params.SHAPE:
        asked, has = getattr(params, name), getattr(right, name)
        if name in params.model_fields_set and asked is not None and asked != has:
            raise CheckpointError(
                f"it has {name} {has}, and the plan asks for {asked}.",
                where=str(found.path),
                remedy=f"Use {name}: {has}, or leave it out.",
            )
    return params.model_copy(update={name: getattr(right, name) for name in params.SHAPE})


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
