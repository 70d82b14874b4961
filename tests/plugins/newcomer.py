"""A newcomer's package in one module: one thing of every kind, each in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_lowercase
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tests.plugins.newcomers_model import MyVit
from tokenprune.interface.adapter import EncoderAdapter
from tokenprune.interface.loading import LoadedModel, LoadOptions
from tokenprune.interface.metric import Answered
from tokenprune.interface.placement import Encoder, PreLlm
from tokenprune.interface.serving import ServedPicture
from tokenprune.interface.signals import BlockAttention, Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.specs import EncoderSpec
from tokenprune.interface.strategy import ScoreStrategy, StrategyParams
from tokenprune.interface.text_tower import TextTower
from tokenprune.interface.tokens import Tokens
from tokenprune.interface.trainable import ModelShape
from tokenprune.lab.kinds import LOADERS
from tokenprune.lab.studies.reporters import CellReport, Closing, Opening
from tokenprune.lab.studies.runners import LocalRunner
from tokenprune.plugins.hookspecs import hookimpl, hookspec
from tokenprune.plugins.host import host
from tokenprune.plugins.kinds import Kind, wrong_name


def loudness(view: BlockAttention) -> Tensor:
    return view.key[:, :, view.prefix :].norm(dim=-1).mean(dim=1)


LOUDNESS = Signal(
    "loudness",
    "[B, N] head mean of the norms of the block's keys",
    needs=BlockAttention,
    compute=loudness,
)


class Loudest(ScoreStrategy[StrategyParams]):
    """A method, by a signal of its own."""

    name = "loudest"
    stages = (Encoder(), PreLlm())

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (LOUDNESS,)

    def score(self, tokens: Tokens) -> Tensor:
        return tokens.signal(LOUDNESS)


class MyVitAdapter(EncoderAdapter):
    """A model family."""

    name = "my-vit"
    claims: ClassVar[tuple[str, ...]] = (f"{MyVit.__module__}.MyVit",)

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.vit: Any = model

    def spec(self) -> EncoderSpec:
        side = self.vit.image_size // self.vit.patch_size
        return EncoderSpec(
            entry=self.vit,
            blocks=list(self.vit.blocks),
            used=len(self.vit.blocks),
            prefix=1,
            class_token=True,
            grid=(1, side, side),
            width=self.vit.width,
        )

    def heads(self, block: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        normed = block.norm1(hidden)
        shape = (*normed.shape[:2], block.num_heads, -1)
        query, key, value = (
            part(normed).view(shape).transpose(1, 2) for part in (block.q, block.k, block.v)
        )
        return query, key, value

    def join(self, block: Any, hidden: Tensor, attended: Tensor) -> Tensor:
        return hidden + block.out(attended.transpose(1, 2).flatten(2))

    def feed_forward(self, block: Any, hidden: Tensor) -> Tensor:
        return hidden + block.mlp(block.norm2(hidden))


class Folders:
    """A loader: folders under a name of its own."""

    scheme, usage = "mine", "mine:FOLDER"

    def load(self, target: str, options: LoadOptions) -> LoadedModel:
        return host().things(LOADERS)["path"].load(target, options)


class Words:
    """A metric: how many words an answer has."""

    name = "words"

    def score(self, samples: Sequence[Answered]) -> list[float]:
        return [float(len(sample.answer.split())) for sample in samples]


@dataclass(frozen=True)
class Backwards:
    """A runner: the last cell first."""

    name: ClassVar[str] = "backwards"

    def run(self, cells: Sequence[Any], study: Any) -> Iterator[Any]:
        return LocalRunner(jobs=1).run(cells[::-1], study)


@dataclass
class Notes:
    """A reporter: remembers the labels of cells and their words."""

    name: ClassVar[str] = "notes"

    seen: list[tuple[str, float]] = field(default_factory=list)

    def started(self, opening: Opening) -> None: ...

    def finished(self, cell: CellReport) -> None:
        self.seen.append((cell.label, cell.numbers["words"]))

    def ended(self, closing: Closing) -> None: ...


@hookspec
def register_colours(register: Callable[[Any], None]) -> None:
    """A kind of its own, which others can bring things of."""


COLOURS: Kind[Any] = Kind("colour", register_colours, wrong_name)


class Echo:
    """A serving engine."""

    name = "echo"

    def arguments(self, plan: Path, model: str) -> list[str]:
        return ["--plan", str(plan), model]

    def check(self, plan: Path, model: str) -> list[ServedPicture]:
        return [ServedPicture("8 x 8", 4, 2)]


class Letters(TextTower):
    """Texts as the numbers of their letters, and visual tokens as their first channels."""

    name = "letters"
    width = len(ascii_lowercase)

    @property
    def module(self) -> nn.Module:
        return nn.Identity()

    @classmethod
    def load(cls, target: str) -> Letters | None:
        return cls() if target == cls.name else None

    def project(self, hidden: Tensor) -> Tensor:
        return hidden.float()

    def encode(self, texts: Sequence[str], *, cut: bool) -> list[Tensor]:
        return [torch.tensor([[float(text.count(a)) for a in ascii_lowercase]]) for text in texts]


class Nowhere:
    """A tiny model of a library that isn't installed, so no check runs in it."""

    name = "nowhere"
    library = "a_library_that_is_not_there"

    def build(self, shape: ModelShape) -> nn.Module:
        raise NotImplementedError

    def inputs(self, shape: ModelShape, texts: Sequence[int]) -> dict[str, Tensor]:
        raise NotImplementedError


class Teal:
    name = "teal"


@hookimpl
def register_strategies(register: Callable[[Any], None]) -> None:
    register(Loudest)


@hookimpl
def register_adapters(register: Callable[[Any], None]) -> None:
    register(MyVitAdapter)


@hookimpl
def register_loaders(register: Callable[[Any], None]) -> None:
    register(Folders())


@hookimpl
def register_metrics(register: Callable[[Any], None]) -> None:
    register(Words())


@hookimpl
def register_runners(register: Callable[[Any], None]) -> None:
    register(Backwards)


@hookimpl
def register_reporters(register: Callable[[Any], None]) -> None:
    register(Notes)


@hookimpl
def register_servers(register: Callable[[Any], None]) -> None:
    register(Echo())


@hookimpl
def register_text_towers(register: Callable[[Any], None]) -> None:
    register(Letters)


@hookimpl
def register_tiny_models(register: Callable[[Any], None]) -> None:
    register(Nowhere())


@hookimpl
def register_kinds(register: Callable[[Any], None]) -> None:
    register(COLOURS)
