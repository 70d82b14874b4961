"""What the probe reads of the pictures of a model, whatever seam its features come through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.engine.adapters import choose_encoder
from tokenprune.engine.attachment import Attachment
from tokenprune.engine.call import current
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.llm.state import MllmState
from tokenprune.engine.stages import ResolvedStage
from tokenprune.interface.sites import Grid
from tokenprune.interface.specs import MllmSpec
from tokenprune.interface.tokens import grid_positions
from tokenprune.lab.probe.look import Look, with_look
from tokenprune.lab.probe.places import ENCODER, PROJECTOR
from tokenprune.lab.probe.states import Rows
from tokenprune.plan import Plan

Found = dict[str, Rows]
Stages = tuple[Plan, list[ResolvedStage]]


class Seam(ABC):
    """Where the features of a model's pictures are made, as the probe reads along there."""

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """The unpruned grid (t, h, w) of a prompt's pictures; known once one was read."""

    @property
    def shown(self) -> Tensor | None:
        """`[T, h * w]` bool: places of the grid that hold a unit; None for all."""
        return None

    @abstractmethod
    def stages(self, plan: Plan, stages: list[ResolvedStage]) -> Stages:
        """The plan and its stages, with one that looks where it takes one to follow tokens."""

    @abstractmethod
    def watch(self, attachment: Attachment, found: Found) -> None:
        """Read along at the places in front of the LLM, until the attachment is detached."""

    @abstractmethod
    @contextmanager
    def features(self) -> Iterator[Callable[[], Tensor]]:
        """Keep the encoder's own features of the next call, of a plan without stages.

        Yields:
            What gives them once the call is over: `[n, T, h * w, D]`.
        """


class ProjectorSeam(Seam):
    """A projector that is handed a row for every patch of every picture.

    Args:
        spec: the model, whose tower is followed.
        frames: pictures of every prompt, T.
    """

    def __init__(self, spec: MllmSpec, frames: int) -> None:
        assert spec.tower is not None
        self._spec, self._frames = spec, frames
        tower = choose_encoder(spec.tower).spec()
        self._prefix, self._blocks = tower.prefix, tower.blocks
        _, height, width = tower.grid
        self._grid = (frames, height, width)

    @property
    def grid(self) -> Grid:
        """The tower's, for every frame."""
        return self._grid

    def stages(self, plan: Plan, stages: list[ResolvedStage]) -> Stages:
        """With one that looks where there is none at all."""
        return (plan, stages) if stages else with_look(plan, stages, Look())

    def watch(self, attachment: Attachment, found: Found) -> None:
        """What the encoder hands to the projector's stages, and what is handed to the LLM."""

        def forward(original: Callable[..., Any], features: Tensor) -> Any:
            call = current(attachment)
            assert call is not None
            encoded = call.state(EncoderState)
            assert encoded is not None
            if ENCODER in found:
                found[ENCODER] += self._encoder_rows(features, encoded.index)
            output = original(features)
            state = call.state(MllmState)
            assert state is not None
            if PROJECTOR in found:
                found[PROJECTOR] += _projected(output, state)
            return output

        attachment.patches.override(self._spec.projector, "forward", forward)

    @contextmanager
    def features(self) -> Iterator[Callable[[], Tensor]]:
        """The last block but one."""
        found: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            found.append(hidden[:, self._prefix :])

        with self._blocks[max(len(self._blocks) - 2, 0)].register_forward_hook(keep):
            yield lambda: torch.unflatten(torch.cat(found), 0, (-1, self._frames))

    def _encoder_rows(self, features: Tensor, index: Tensor) -> Rows:
        """Samples from what the encoder put out for their pictures.

        Args:
            features: `[n * T, P + K, D]`, class tokens in front.
            index: `[n * T, K]` patch whose place each token holds.
        """
        patches = features[:, features.shape[1] - index.shape[1] :]
        frame = torch.arange(index.shape[0], device=index.device) % self._frames
        _, height, width = self.grid
        position = grid_positions(self.grid, index + frame[:, None] * height * width)
        joined = [
            torch.unflatten(value, 0, (-1, self._frames)).flatten(1, 2)
            for value in (patches, position)
        ]
        return list(zip(*joined, strict=True))


def _projected(output: Tensor, state: MllmState) -> Sequence[tuple[Tensor, Tensor]]:
    """Samples from the projector's output, in which the places of removed tokens are empty."""
    rows, first = [], 0
    for image in state.pictures.get("image", ()):
        frames, height, width = image.grid
        frame, patch = image.index // (height * width), image.index % (height * width)
        hidden = output[first + frame, image.prefix + patch]
        rows.append((hidden, grid_positions(image.grid, image.index)))
        first += frames
    return rows
