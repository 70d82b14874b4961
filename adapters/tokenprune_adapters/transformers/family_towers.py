"""How the pictures of a family come through a vision tower, as data of a row of the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.errors import UnsupportedModelError
from tokenprune.interface.calls import Written
from tokenprune.interface.specs import Tower
from tokenprune_adapters.transformers import llm_names as names
from tokenprune_adapters.transformers import unit_sides

LAYERS = ("vision_feature_layer", "vision_feature_layers")
"""Which hidden states of the tower are read: names of the setting, and arguments of a call."""
DEPTHS = ("num_hidden_layers", "depth")
"""Names of the setting that says how many blocks a tower has."""
STRATEGY = "vision_feature_select_strategy"
"""`default` cuts the class token off the features: a setting, and an argument of a call."""


@dataclass(frozen=True)
class Followed:
    """A tower, and what of it a kind of picture reads.

    Attributes:
        module: dotted name of the tower below the core.
        layers: names of the setting that says which hidden states are read, the first that is
            there counts; none of them for the last states.
        cut: class tokens that are no units, the name of the setting that says so, or what reads it
            from the core.
        side: rows and columns of patches that become one unit, read from the core.
        blended: see `Tower.blended`.
        projector: dotted name below the core, see `Tower.projector`; None for none.
        shown: arguments with which the projector behind a packed tower is called for some units
            `[K, m, D]`; None if there is none.
        blocks: dotted name of the blocks below the tower, or what tells them, where its config
            doesn't say how many there are.
        frames: see `Tower.frames`.
        encoder: see `Tower.encoder`.
    """

    module: str = "vision_tower"
    layers: tuple[str, ...] = LAYERS
    cut: int | str | Callable[[Any], int] = STRATEGY
    side: Callable[[Any], int] = unit_sides.patch
    blended: str | None = None
    projector: str | None = "multi_modal_projector"
    shown: Callable[[Any, Tensor], Written] | None = None
    blocks: str | Callable[[nn.Module], Sequence[nn.Module]] | None = None
    frames: bool = False
    encoder: str | None = None

    def read(self, core: Any) -> Tower:
        """The tower of a model.

        Raises:
            UnsupportedModelError: the config reads states that no block puts out, or doesn't say
                how many blocks there are.
        """
        module: nn.Module = core.get_submodule(self.module)
        depth = self._depth(core, module)
        name, value = self._setting(core.config)
        chosen = [-1] if value is None else value if isinstance(value, list | tuple) else [value]
        levels = {depth + 1 + layer if layer < 0 else layer for layer in chosen}
        if not all(1 <= level <= depth for level in levels):
            raise UnsupportedModelError(
                f"{name} {value} isn't the output of blocks of {depth}.",
                where=f"config.{name}",
                remedy=f"Choose -1 to -{depth}, or 1 to {depth}.",
            )
        cut = self.cut
        if isinstance(cut, str):
            cut = int(getattr(core.config, cut) == "default")
        elif not isinstance(cut, int):
            cut = cut(core)
        projector = None if self.projector is None else core.get_submodule(self.projector)
        return Tower(
            module,
            tuple(sorted(levels)),
            cut,
            self.side(core),
            self.blended,
            projector,
            self.frames,
            self.encoder,
        )

    def fixed(self, config: Any) -> dict[str, Any]:
        """Arguments of a call that choose other features, with the values of the config."""
        _, value = self._setting(config)
        found = {} if value is None else dict.fromkeys(self.layers, value)
        if isinstance(self.cut, str):
            found[self.cut] = getattr(config, self.cut)
        return found

    def _depth(self, core: Any, module: nn.Module) -> int:
        if self.blocks is not None:
            told = attrgetter(self.blocks) if isinstance(self.blocks, str) else self.blocks
            return len(told(module))
        vision = getattr(core.config, "vision_config", None)
        said = next((getattr(vision, name) for name in DEPTHS if hasattr(vision, name)), None)
        if said is None:
            raise UnsupportedModelError(
                "the config doesn't say how many blocks the tower has.",
                where=f"config.vision_config of {type(core).__name__}",
                remedy='Name the blocks, as in Followed(blocks="encoder.layers").',
            )
        return int(said)

    def _setting(self, config: Any) -> tuple[str, Any]:
        found = ((name, getattr(config, name, None)) for name in self.layers)
        return next((pair for pair in found if pair[1] is not None), ("", None))


def class_token(core: Any) -> int:
    """Whether the core takes a class token off (PerceptionLM)."""
    return int(core.config.vision_use_cls_token)


def in_line(core: Any, units: Tensor) -> Written:
    """Units as a picture that is one unit high, and its size in pixels (Mistral 3)."""
    side, count = int(core.config.spatial_merge_size), len(units)
    pixels = side * int(core.config.vision_config.patch_size)
    rows = units.view(count, side, side, -1).transpose(0, 1).flatten(0, 2)
    return (rows, [(pixels, count * pixels)]), {}


def in_line_of_grids(core: Any, units: Tensor) -> Written:
    """The same with its grid in patches (PaddleOCR-VL)."""
    side, count = int(core.config.vision_config.spatial_merge_size), len(units)
    rows = units.view(count, side, side, -1).transpose(0, 1).flatten(0, 2)
    return (rows, torch.tensor([[1, side, count * side]], device=units.device)), {}


def in_line_of_frames(core: Any, units: Tensor) -> Written:
    """The same in rows unit by unit, one frame or two behind each other (ERNIE 4.5 VL)."""
    side, count = int(core.config.vision_config.spatial_merge_size), len(units)
    frames = units.shape[1] // side**2
    rows = units.view(count, frames, side**2, -1).transpose(0, 1).flatten(0, 2)
    return (rows, torch.tensor([[frames, side, count * side]], device=units.device)), {}


def in_rows(core: Any, units: Tensor) -> Written:
    """Units as rows unit by unit (MiniMax M3, Cosmos 3 Edge)."""
    return (units.flatten(0, 1),), {}


def spread(tower: Tower, output: Any, whole: Callable[[Tensor, int], Tensor]) -> Any:
    """What a tower put out, with rows for all patches in the states that are read.

    Args:
        tower: the tower.
        output: a `ModelOutput`, changed in place, or the last states alone.
        whole: gives states of all patches for those that stand behind so many blocks.
    """
    if isinstance(output, Tensor):
        return whole(output, tower.used)
    states = getattr(output, names.HIDDEN, None)
    if states is not None:
        read = {level: whole(states[level], level) for level in tower.levels}
        setattr(output, names.HIDDEN, tuple(read.get(n, one) for n, one in enumerate(states)))
    setattr(output, names.LAST, whole(getattr(output, names.LAST), tower.used))
    return output
