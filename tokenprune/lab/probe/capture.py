"""Reading visual tokens at several places of a multimodal LLM, with or without a plan."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.engine.adapters import choose_adapter
from tokenprune.engine.attach import attach_stages
from tokenprune.engine.attachment import Attachment
from tokenprune.engine.call import current_state
from tokenprune.engine.llm.state import MllmState
from tokenprune.engine.stages import built
from tokenprune.errors import DataError, PictureWarning, UnsupportedCallError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.sites import Grid
from tokenprune.interface.tokens import grid_positions
from tokenprune.lab.probe.features import FeatureSeam
from tokenprune.lab.probe.places import ENCODER, layer_of
from tokenprune.lab.probe.seams import Found, ProjectorSeam, Seam
from tokenprune.lab.probe.states import Rows, States
from tokenprune.plan import Plan


class Reader:
    """Reads the tokens of one model at the same places, plan by plan.

    A sample is one prompt with its picture, or with the frames of its clip.

    Args:
        model: the multimodal LLM.
        places: where to read, see `parse_places`.
        frames: pictures of every prompt, T, where plans take these for the frames of a clip.

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
        self._seam = self._found_seam()

    def _found_seam(self) -> Seam:
        if self._spec.tower is not None:
            return ProjectorSeam(self._spec, self._frames)
        if any(one.tower is not None for one in self._spec.modalities.values()):
            return FeatureSeam(self._adapter, ENCODER in self._places)
        raise DataError(
            f"the tower of {type(self._model).__name__} isn't followed, so there are no features "
            "of its own to read back.",
            where="--probe",
            remedy="Leave --probe away, or pass a model with a followed tower.",
        )

    @property
    def grid(self) -> Grid:
        """The unpruned grid (t, h, w) of a sample; of some models known once one was read."""
        return self._seam.grid

    @property
    def shown(self) -> Tensor | None:
        """`[T, h * w]` bool: places of the grid that hold a token; None for all."""
        return self._seam.shown

    def read(self, plan: Plan, inputs: Mapping[str, Any]) -> dict[str, States]:
        """The tokens of a batch at every place, with a plan in force; without stages, dense."""
        with self._attached(plan) as attachment, torch.no_grad():
            found = self.watch(attachment)
            self._spec.core(**inputs, use_cache=False)
        return {place: States.of(rows) for place, rows in found.items()}

    def watch(self, attachment: Attachment) -> Found:
        """Read along while this attachment of the model runs, until it is detached.

        Args:
            attachment: with at least one stage.

        Returns:
            Single samples by place, `[K, d]` and `[K, 3]` each, filled by every call in the order
            of its prompts; with gradients where the call has some.
        """
        found: Found = {place: [] for place in self._places}
        self._seam.watch(attachment, found)
        for place in self._places:
            layer = layer_of(place)
            if layer is not None:
                keep = _behind_layer(attachment, found[place])
                attachment.patches.override(self._spec.layers[layer], "forward", keep)
        return found

    def dense(self, inputs: Mapping[str, Any]) -> tuple[dict[str, States], Tensor]:
        """The unpruned tokens, and the encoder's own features: its last block but one.

        Returns:
            States by place, and features `[n, T, h * w, D]`.

        Raises:
            DataError: tokens can't be followed through the tower, or prompts have other grids.
        """
        plan = Plan(images="frames" if self._frames > 1 else "separate")
        with self._seam.features() as features:
            try:
                states = self.read(plan, inputs)
            except UnsupportedCallError as error:
                raise DataError(
                    f"there are no features of single tokens to read back: {error.message}",
                    where="--probe",
                    remedy="Leave --probe away with this model and task.",
                ) from error
        return states, features()

    @contextmanager
    def _attached(self, plan: Plan) -> Iterator[Attachment]:
        plan, stages = self._seam.stages(plan, built(plan))
        with warnings.catch_warnings():
            # of tokens that can't be followed the user's plan need not have any
            warnings.simplefilter("ignore", PictureWarning)
            attachment = attach_stages(self._model, plan, stages, self._adapter)
        with attachment:
            yield attachment


def _behind_layer(owner: Attachment, found: Rows) -> Callable[..., Any]:
    def forward(original: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        output = original(hidden, *args, **kwargs)
        state = current_state(owner, MllmState)
        if state is not None and not state.aside and state.flow is not None:
            states = output[0] if isinstance(output, tuple) else output
            for number, row in enumerate(state.left.rows):
                if row is not None:
                    maps = row.maps(apart=True)
                    place = grid_positions(maps.grid, maps.raster(row.line()))
                    # streams of a token side by side
                    found.append((states[number, row.slot].flatten(1), place))
        return output

    return forward
