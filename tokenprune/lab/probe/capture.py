"""Reading visual tokens at several places of a multimodal LLM, with or without a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.engine.adapters import choose_adapter, choose_encoder
from tokenprune.engine.attach import attach_stages
from tokenprune.engine.attachment import Attachment
from tokenprune.engine.call import current
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.llm.state import MllmState
from tokenprune.engine.stages import ResolvedStage, built
from tokenprune.errors import DataError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens, grid_positions
from tokenprune.lab.probe.places import ENCODER, PROJECTOR, layer_of
from tokenprune.lab.probe.states import States
from tokenprune.plan import Plan, StagePlan

Rows = list[tuple[Tensor, Tensor]]


class Look(PruningStrategy[StrategyParams]):
    """Keeps every token; with it the engine also follows the tokens of a dense model."""

    name = "look"
    stages = (PreLlm(),)

    def __init__(self) -> None:
        super().__init__(StrategyParams())

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Leave everything as it is."""
        return Reduction.none()


class Reader:
    """Reads the tokens of one model at the same places, plan by plan.

    A sample is one prompt with its picture, or with the frames of its video.

    Args:
        model: the multimodal LLM.
        places: where to read, see `parse_places`.
        frames: pictures of every prompt, T.

    Raises:
        DataError: it is no multimodal LLM, or its tower isn't followed.
    """

    def __init__(self, model: nn.Module, places: Sequence[str], frames: int = 1) -> None:
        adapter = choose_adapter(model)
        if not isinstance(adapter, MllmAdapter):
            raise DataError(
                f"{adapter.name} is an encoder, and the probe reads multimodal LLMs.",
                where="--probe",
                remedy="Leave --probe away, or pass a multimodal LLM.",
            )
        self._model, self._adapter, self._spec = model, adapter, adapter.spec()
        self._places, self._frames = tuple(places), frames
        if self._spec.tower is None:
            raise DataError(
                f"the tower of {type(model).__name__} isn't followed, so there are no features of "
                "its own to read back.",
                where="--probe",
                remedy="Leave --probe away, or pass a model with a followed tower.",
            )
        tower = choose_encoder(self._spec.tower).spec()
        self._prefix, self._blocks = tower.prefix, tower.blocks
        height, width = tower.grid[1:]
        self.grid = (frames, height, width)

    def read(self, plan: Plan, inputs: Mapping[str, Any]) -> dict[str, States]:
        """The tokens of a batch at every place, with a plan in force; without stages, dense."""
        with self._attached(plan) as attachment, torch.no_grad():
            found = self.watch(attachment)
            self._spec.core(**inputs, use_cache=False)
        return {place: States.of(rows) for place, rows in found.items()}

    def watch(self, attachment: Attachment) -> dict[str, Rows]:
        """Read along while this attachment of the model runs, until it is detached.

        Args:
            attachment: with at least one stage.

        Returns:
            Single samples by place, `[K, d]` and `[K, 3]` each, filled by every call in the order
            of its prompts; with gradients where the call has some.
        """
        found: dict[str, Rows] = {place: [] for place in self._places}
        patches = attachment.patches
        patches.override(
            self._spec.projector, "forward", _around_projector(attachment, self, found)
        )
        for place in self._places:
            layer = layer_of(place)
            if layer is not None:
                keep = _behind_layer(attachment, found[place])
                patches.override(self._spec.layers[layer], "forward", keep)
        return found

    def dense(self, inputs: Mapping[str, Any]) -> tuple[dict[str, States], Tensor]:
        """The unpruned tokens, and the encoder's own features: its last block but one.

        Returns:
            States by place, and features `[n, T, h * w, D]`.
        """
        found: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            found.append(hidden[:, self._prefix :])

        handle = self._blocks[max(len(self._blocks) - 2, 0)].register_forward_hook(keep)
        try:
            states = self.read(Plan(images="frames" if self._frames > 1 else "separate"), inputs)
        finally:
            handle.remove()
        return states, torch.unflatten(torch.cat(found), 0, (-1, self._frames))

    @contextmanager
    def _attached(self, plan: Plan) -> Iterator[Attachment]:
        stages = built(plan)
        if not stages:
            look = StagePlan(at="pre_llm", strategy=Look.name, keep=1.0)
            plan = plan.model_copy(update={"stages": (look,)})
            stages = [ResolvedStage(0, look, Look())]
        with attach_stages(self._model, plan, stages, self._adapter) as attachment:
            yield attachment

    def encoder_rows(self, features: Tensor, index: Tensor) -> Rows:
        """Samples from what the encoder put out for their pictures.

        Args:
            features: `[n * T, P + K, D]`, class tokens in front.
            index: `[n * T, K]` patch whose place each token holds.
        """
        patches = features[:, features.shape[1] - index.shape[1] :]
        frame = torch.arange(index.shape[0], device=index.device) % self._frames
        height, width = self.grid[1:]
        position = grid_positions(self.grid, index + frame[:, None] * height * width)
        joined = [
            torch.unflatten(value, 0, (-1, self._frames)).flatten(1, 2)
            for value in (patches, position)
        ]
        return list(zip(*joined, strict=True))


def _around_projector(
    owner: Attachment, reader: Reader, found: dict[str, Rows]
) -> Callable[..., Any]:
    """What the encoder hands to the projector's stages, and what is handed to the LLM."""

    def forward(original: Callable[..., Any], features: Tensor) -> Any:
        call = current(owner)
        assert call is not None
        encoded = call.state(EncoderState)
        assert encoded is not None
        if ENCODER in found:
            found[ENCODER] += reader.encoder_rows(features, encoded.index)
        output = original(features)
        state = call.state(MllmState)
        assert state is not None
        if PROJECTOR in found:
            found[PROJECTOR] += _projected(output, state)
        return output

    return forward


def _projected(output: Tensor, state: MllmState) -> Rows:
    """Samples from the projector's output, in which the places of removed tokens are empty."""
    rows, first = [], 0
    for image in state.pictures.get("image", ()):
        frames, height, width = image.grid
        frame, patch = image.index // (height * width), image.index % (height * width)
        hidden = output[first + frame, image.prefix + patch]
        rows.append((hidden, grid_positions(image.grid, image.index)))
        first += frames
    return rows


def _behind_layer(owner: Attachment, found: Rows) -> Callable[..., Any]:
    def forward(original: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        output = original(hidden, *args, **kwargs)
        call = current(owner)
        state = None if call is None else call.state(MllmState)
        if state is not None and not state.aside and state.flow is not None:
            states = output[0] if isinstance(output, tuple) else output
            for number, row in enumerate(state.left.rows):
                if row is not None:
                    maps = row.maps(apart=True)
                    place = grid_positions(maps.grid, maps.raster(row.line()))
                    found.append((states[number, row.slot], place))
        return output

    return forward
