"""Multimodal LLMs whose core asks one method for the features of each kind of picture.

A family is data: a row of `family_table`. What is common to all is here, and in `family_pictures`.
"""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import Any, ClassVar

from torch import Tensor, nn

from tokenprune.errors import UnsupportedCallError, UnsupportedModelError
from tokenprune.interface.calls import Arguments, Entry, LlmCall, PromptCall, Refused, Written
from tokenprune.interface.signals import (
    ClassFeature,
    Companions,
    LayerAhead,
    LayerBefore,
    LayerValues,
    Question,
    TowerSpace,
    View,
)
from tokenprune.interface.specs import MllmSpec, Modality
from tokenprune.interface.versions import installed
from tokenprune_adapters.shared.arguments import named, parameters
from tokenprune_adapters.shared.signatures import Relied, check_library
from tokenprune_adapters.transformers import deepstack, layer_configs
from tokenprune_adapters.transformers import llm_names as names
from tokenprune_adapters.transformers.family_pictures import FamilyPictures
from tokenprune_adapters.transformers.family_rows import Family, Pictures
from tokenprune_adapters.transformers.layers import check_positions, layers_of
from tokenprune_adapters.transformers.mllm import TransformersMllm, encoded

__all__ = ["Family", "FamilyAdapter", "Pictures"]

SUPPLIED: frozenset[type[View]] = TransformersMllm.supplies - {Question}
"""What can be had of an LLM; layers whose query and key can't are refused one by one."""
UNREAD: frozenset[type[View]] = SUPPLIED - {LayerBefore, LayerAhead, LayerValues}
"""The same of an LLM whose attention isn't read."""
REFUSED = {
    "output_router_logits": Refused(
        "router logits of a shortened sequence have fewer rows than the loss over them expects.",
        "Call without it, or detach the plan.",
    ),
    "image_hidden_states": Refused(
        "features come without the pictures that they were made of, and none would be pruned.",
        f"Pass {names.PICTURES}.",
    ),
}
"""Arguments of some cores that a shortened sequence can't serve."""


class FamilyAdapter(FamilyPictures):
    """A multimodal LLM of a family in the table.

    Class attributes:
        family: what is its own.
    """

    supplies: ClassVar[frozenset[type[View]]] = SUPPLIED
    towers: ClassVar[tuple[str, ...] | None] = None
    # stages in front of the LLM act behind the projector, at its width, and companions and class
    # tokens are narrower; nor is it told there which question is about which of several tiles
    withholds: ClassVar[frozenset[type[View]]] = frozenset({ClassFeature, Companions, TowerSpace})
    projected: ClassVar[bool] = True

    def __init__(self, model: nn.Module) -> None:
        """Read the model's parts, and check the signatures of what is called.

        Raises:
            UnsupportedModelError: a release of transformers with other parts or arguments, or
                layers that compute with position ids.
        """
        super().__init__(model)
        self._check_core()
        self._spec = self._read()
        check_library("transformers", self._relied_on())
        if not self.family.placed:
            check_positions(self._spec.layers, f"{type(self._spec.language_model).__name__}")

    def spec(self) -> MllmSpec:
        """The model as data."""
        return self._spec

    def read_prompt(self, entry: Entry, args: tuple[Any, ...], kwargs: Arguments) -> PromptCall:
        """What a call of the whole model says, and which kinds of pictures it has.

        Raises:
            UnsupportedCallError: a mask hides features of pictures from the prompt.
        """
        call = super().read_prompt(entry, args, kwargs)
        for name, refused in self.family.full.items():
            mask = call.arguments.get(name)
            if mask is not None and not bool(mask.all()):
                raise UnsupportedCallError(refused.reason, where=name, remedy=refused.remedy)
        before = encoded(call.arguments)
        kinds = [
            kind
            for kind, one in self.family.pictures.items()
            if before.get(kind) is not None
            or any(call.arguments.get(name) is not None for name in one.pixels)
        ]
        named_pixels = (name for one in self.family.pictures.values() for name in one.pixels)
        pixels = {name: call.arguments.get(name) for name in named_pixels}
        return replace(call, kinds=frozenset(kinds), pictured=bool(kinds), pixels=pixels)

    def read_llm(self, args: tuple[Any, ...], kwargs: Arguments) -> LlmCall:
        """What a call of the LLM says, features of several depths included."""
        given = named(type(self._spec.language_model).forward, args, kwargs)
        return deepstack.read(super().read_llm(args, kwargs), given)

    def write_llm(self, call: LlmCall, args: tuple[Any, ...], kwargs: Arguments) -> Written:
        """The LLM's arguments as `call` says."""
        call, packed = deepstack.written(call)
        put, rest = super().write_llm(call, args, kwargs)
        return put, {**rest, **packed, **self._whole()}

    def narrow_injection(
        self, method: str, columns: Tensor, args: tuple[Any, ...], kwargs: Arguments
    ) -> Written:
        """The features of one depth for the tokens that are left."""
        return deepstack.narrowed(columns, args), dict(kwargs)

    def ignores_positions(self) -> bool:
        """Whether no layer looks at position ids."""
        return super().ignores_positions() and not self.family.counts

    def padding_masks(self) -> bool:
        """Whether the LLM runs FlashAttention."""
        return "flash" in str(self._config._attn_implementation)

    @property
    def core(self) -> Any:
        """The module that makes features and calls the LLM, inside of the model with its head."""
        return self.model.model

    @property
    def _language(self) -> Any:
        return attrgetter(self.family.language)(self.core)

    @property
    def _config(self) -> Any:
        return self._language.config

    def _whole(self) -> dict[str, Any]:
        """What of `Family.whole` this release's LLM takes."""
        taken = parameters(type(self._language).forward)
        return {name: value for name, value in self.family.whole.items() if name in taken}

    def _read(self) -> MllmSpec:
        model: Any = self.model
        core, family, language = self.core, self.family, self._language
        layers = layers_of(language)
        modalities = {
            kind: Modality(
                one.method,
                self._placeholder(one),
                None if one.tower is None else one.tower.read(core),
                one.unfollowed,
            )
            for kind, one in family.pictures.items()
        }
        followed = [one.tower for one in family.pictures.values() if one.tower is not None]
        config = language.config
        depths = layer_configs.depths(model.config)
        windows = layer_configs.windows(config)
        linear = layer_configs.linear(config)
        full = [number for number in range(len(layers)) if number not in linear]
        return MllmSpec(
            core=core,
            language_model=language,
            layers=layers,
            placeholder_id=next(iter(modalities.values())).placeholder_id,
            names=names.NAMES,
            supplies=self.supplies,
            modalities=modalities,
            fixed={
                name: value for one in followed for name, value in one.fixed(core.config).items()
            },
            refused={**names.REFUSED, **REFUSED},
            refused_generation=names.REFUSED_GENERATION,
            refused_methods=names.REFUSED_METHODS,
            per_token={**family.per_token, **(deepstack.axes(depths) if depths else {})},
            window=layer_configs.window(config, windows, flat=self.padding_masks()),
            windows=windows,
            joins=family.joins,
            masks=family.masks,
            base=full[0],
            chooses=layer_configs.chooses(config),
            partial=bool(self._whole()),
            placed=family.placed,
            injections=(deepstack.METHOD,) if depths else (),
            flat_layers=frozenset(linear),
            renumbers=layer_configs.renumbers(config, apart=family.apart),
            fixed_layers=layer_configs.fixed(config),
            special_ids=self._special_ids({one.placeholder_id for one in modalities.values()}),
            sound_ids=layer_configs.sound_ids(model.config),
            prepares=names.PREPARES if hasattr(model, names.PREPARES) else None,
        )

    def _check_core(self) -> None:
        """Refuse a model whose LLM isn't a part of a core, as releases of some families built it.

        Raises:
            UnsupportedModelError: naming the part.
        """
        part = self.family.language.partition(".")[0]
        if not hasattr(self.core, part):
            raise UnsupportedModelError(
                f"{type(self.core).__name__} has no {part} in this release.",
                where=f"transformers {installed('transformers')}",
                remedy="Use a newer release of transformers.",
            )

    def _placeholder(self, pictures: Pictures) -> int:
        config: Any = self.model.config
        found = (getattr(config, name, None) for name in pictures.placeholder)
        return next(int(value) for value in found if value is not None)

    def _special_ids(self, placeholders: set[int]) -> frozenset[int]:
        return frozenset({*layer_configs.special_ids(self.model), *placeholders})

    def _relied_on(self) -> list[Relied]:
        """The methods that the engine overrides or calls, with the arguments it reads or sets."""
        spec = self._spec
        step = (names.MASK, names.POSITIONS, names.CACHE_NAMES)
        asked = (names.IDS, names.EMBEDS, *step)
        return [
            Relied(self.model, "forward", asked, anything=True),
            Relied(spec.core, "forward", asked),
            Relied(spec.language_model, "forward", (names.EMBEDS, *step)),
            *(Relied(spec.core, one.method) for one in spec.modalities.values()),
            *(Relied(spec.language_model, method) for method in spec.injections),
            *(
                Relied(layer, "forward", (names.MASK, names.ROTARY), (names.HIDDEN,), anything=True)
                for layer in spec.layers
            ),
        ]
