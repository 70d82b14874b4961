"""The strategy `vistog`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from tokenprune.errors import BudgetError, CheckpointError
from tokenprune.reduction import Reduction
from tokenprune.strategy import Budget, PruningStrategy
from tokenprune.tokens import Signal, Site, Stage, Tokens
from tokenprune_strategies import checkpoint
from tokenprune_strategies.vistog.grouping import SemanticGrouping, gumbel
from tokenprune_strategies.vistog.params import OURS, VisToGParams

DEFAULT_GROUPS = 64


class VisToG(PruningStrategy[VisToGParams]):
    """Semantic tokens read the image in every encoder block, then gather the patches in groups.

    The image never reads them (isolated attention), so its own states stay those of the plain
    encoder. Needs training: in training mode the assignment is a straight-through Gumbel softmax,
    otherwise a hard, deterministic choice. Source: VisToG (arXiv 2411.17773); the grouping layer's
    concrete form is after GroupViT (arXiv 2202.11094).

    Raises:
        CheckpointError: neither a checkpoint nor `init_seed` is given, or the checkpoint is
            damaged, foreign or of another shape.
    """

    name: ClassVar[str] = "vistog"
    Params = VisToGParams
    stages: ClassVar[tuple[Stage, ...]] = ("pre_llm",)
    summary: ClassVar[str] = "Learned: semantic tokens group the patches; needs a checkpoint."
    paper: ClassVar[str] = "VisToG: Efficient MLLMs via Visual Token Grouping, arXiv 2411.17773"
    licence_note: ClassVar[str] = (
        "Written from method notes; no official code was found, and GroupViT's was not used."
    )
    ours: ClassVar[dict[str, str]] = OURS
    training_free: ClassVar[bool] = False

    def __init__(self, params: VisToGParams) -> None:
        super().__init__(params)
        self._module = _untrained(params) if params.checkpoint is None else _trained(params)
        self._module.eval()
        self._generator: torch.Generator | None = None

    @property
    def groups(self) -> int:
        """Number of semantic tokens G."""
        return self._module.semantic.shape[0]

    def check(self, site: Site, budget: Budget, grid: tuple[int, int, int]) -> None:
        """Every group becomes one token, so exactly G are kept.

        Raises:
            BudgetError: the budget isn't G.
        """
        if budget.keep != self.groups:
            raise BudgetError(
                f"vistog makes one token of each of its {self.groups} groups, not "
                f"{budget.keep} tokens.",
                where=str(site),
                remedy=f"Use keep: {self.groups}, or weights with {budget.keep} groups.",
                nearest=self.groups,
            )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The semantic tokens after the encoder."""
        return (Signal.COMPANIONS,)

    def companions(self) -> Tensor:
        """The semantic tokens Z_0, `[G, D]`; the parameter itself, so gradients reach it."""
        return self._module.semantic

    def modules(self) -> SemanticGrouping:
        """Everything that is learned."""
        return self._module

    def train(self, mode: bool = True) -> VisToG:
        """Switch the Gumbel softmax on or off; the encoder and the LLM are left as they are."""
        self._module.train(mode)
        return self

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """What an optimiser updates; the paper's second stage trains projector and LLM too."""
        return self._module.parameters()

    def save_checkpoint(self, path: Path) -> None:
        """Write the weights for the parameter `checkpoint`."""
        groups, dim = self._module.semantic.shape
        checkpoint.save(path, self._module, self.name, {"groups": groups, "dim": dim})

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Replace all tokens by the G group tokens, in slot order."""
        grouping = self._module(
            tokens.signal(Signal.COMPANIONS), tokens.hidden, self._noise(tokens)
        )
        return Reduction.replace(grouping.created, grouping.group)

    def _noise(self, tokens: Tokens) -> Tensor | None:
        if not self._module.training:
            return None
        if self._generator is None:
            self._generator = torch.Generator().manual_seed(tokens.seed)
        shape = (tokens.hidden.shape[0], self.groups, tokens.count)
        return gumbel(shape, self._generator).to(tokens.hidden.device)


def _untrained(params: VisToGParams) -> SemanticGrouping:
    if params.init_seed is None or params.dim is None:
        raise CheckpointError(
            "vistog is a learned method and can't run without trained weights.",
            where="vistog",
            remedy="Give 'checkpoint', or 'init_seed' and 'dim' to train it.",
        )
    # The user's own random state stays as it was.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(params.init_seed)
        groups = params.groups or DEFAULT_GROUPS
        return SemanticGrouping(groups, params.dim, tau=params.tau, eps=params.eps)


def _trained(params: VisToGParams) -> SemanticGrouping:
    assert params.checkpoint is not None
    found = checkpoint.read(params.checkpoint, VisToG.name)
    shape = {"groups": found.whole("groups"), "dim": found.whole("dim")}
    for fact, wanted in (("groups", params.groups), ("dim", params.dim)):
        if wanted is not None and wanted != shape[fact]:
            raise CheckpointError(
                f"it has {fact} {shape[fact]}, and the plan asks for {wanted}.",
                where=str(params.checkpoint),
                remedy=f"Use {fact}: {shape[fact]}, or leave it out.",
            )
    with torch.device("meta"):
        module = SemanticGrouping(shape["groups"], shape["dim"], tau=params.tau, eps=params.eps)
    checkpoint.fill(module, found)
    return module
