"""Multimodal LLMs whose core asks one method for the features of each kind of picture.

A family is data: a row of `family_table`. What is common to all is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from operator import attrgetter
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tokenprune.errors import UnsupportedCallError, UnsupportedModelError
from tokenprune.interface.calls import Arguments, Entry, LlmCall, PromptCall, Refused, Written
from tokenprune.interface.places import Places
from tokenprune.interface.signals import ClassFeature, Companions, Question, TowerSpace, View
from tokenprune.interface.specs import MllmSpec, Modality, Tower
from tokenprune.interface.versions import installed
from tokenprune_adapters.shared.arguments import named, parameters
from tokenprune_adapters.shared.signatures import Relied, check_library
from tokenprune_adapters.transformers import deepstack, family_features, family_towers, llm_layers
from tokenprune_adapters.transformers import llm_names as names
from tokenprune_adapters.transformers.family_towers import Followed
from tokenprune_adapters.transformers.layers import check_positions
from tokenprune_adapters.transformers.mllm import TransformersMllm
from tokenprune_adapters.transformers.picture_places import Frames, Read
from tokenprune_adapters.transformers.tile_runs import Begins, tiles_of

SUPPLIED: frozenset[type[View]] = TransformersMllm.supplies - {Question}
"""What can be had of an LLM; layers whose query and key can't are refused one by one."""
TOLD_APART = "`encoder` without restoring, and `pre_llm` by the tower's signals"
"""What can't be had of units that can't be told apart behind their tower."""
FRAMES = "no strategies that span frames, which its tower sees one by one"
"""What a tower with pieces can't do with clips."""
REFUSED = {
    "output_router_logits": Refused(
        "router logits of a shortened sequence have fewer rows than the loss over them expects.",
        "Call without it, or detach the plan.",
    ),
}
"""Arguments of a core with experts that a shortened sequence can't serve."""


@dataclass(frozen=True)
class Pictures:
    """A kind of picture of a family.

    Attributes:
        method: method of the core that makes the features.
        placeholder: names of the setting with the placeholder's id, the first that is there counts.
        pixels: arguments that bring such pictures.
        read: how the places are read from what the method made.
        tower: the tower that they come through; None if it isn't followed.
        frames: how many pictures each clip is, where a packed tower sees clips as such.
        begins: tells which tiles begin a picture, where `read` tells tiles.
        overview: which tile of such a picture shows it whole.
        overlaps: tells from a method's arguments why a token shows several units of the tower;
            None where `tower` says it of all pictures, or none does.
        may_overlap: the same of pictures that the config allows.
        unfollowed: why they can't be followed through a tower, if they aren't.
    """

    method: str
    placeholder: tuple[str, ...]
    pixels: tuple[str, ...]
    read: Read
    tower: Followed | None = None
    frames: Frames | None = None
    begins: Begins | None = None
    overview: int = -1
    overlaps: Callable[[Any, Arguments], str | None] | None = None
    may_overlap: Callable[[Any], str | None] | None = None
    unfollowed: str = ""


@dataclass(frozen=True)
class Family:
    """What differs between families.

    Attributes:
        pictures: kinds of pictures, in the order in which the core asks for them.
        language: dotted name below the core of the LLM without head.
        apart: whether position ids count time, height and width apart.
        masks: whether the core makes the layers' masks.
        per_token: further arguments of the LLM or its layers with an entry for each token.
        towers: names of the encoder adapters of its towers; None if none is followed.
        behind: whether released models have blocks behind the last one that is read.
        joins: see `MllmSpec.joins`.
        renumbers: whether survivors can be renumbered, where `apart` doesn't forbid it already.
        full: masks that may hide nothing where they are given, and what to do about it.
        counts: whether attention computes with position ids, in slots, where it is given some.
        placed: see `MllmSpec.placed`; then no kernel of packed samples may run its attention.
        whole: values of arguments for which the LLM keeps the states of all its tokens.
        notes: what else its users should know of its pictures, in words.
    """

    pictures: Mapping[str, Pictures]
    language: str = "language_model"
    apart: bool = False
    masks: bool = False
    per_token: Mapping[str, int] = field(default_factory=dict)
    towers: tuple[str, ...] | None = None
    behind: bool = True
    joins: bool = False
    renumbers: bool = True
    counts: bool = False
    full: Mapping[str, Refused] = field(default_factory=dict)
    placed: bool = False
    whole: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def limits(self) -> tuple[str, ...]:
        """What can't be done with its pictures, in words."""
        found, unfollowed = list[str](), dict[str, list[str]]()
        for kind, one in self.pictures.items():
            if one.tower is None:
                unfollowed.setdefault(one.unfollowed and f": {one.unfollowed}", []).append(kind)
            elif one.tower.blended is not None:
                why = one.tower.blended.rstrip(".")
                found.append(f"{TOLD_APART} ({kind}), at the call: {why}")
            elif one.tower.frames:
                found.append(f"`encoder` ({kind}): {FRAMES}")
        told = "`encoder`: tokens aren't followed through the tower"
        lines = (f"{told} ({', '.join(kinds)}){why}" for why, kinds in unfollowed.items())
        return (*lines, *found, *self.notes)


class FamilyAdapter(TransformersMllm):
    """A multimodal LLM of a family in the table.

    Class attributes:
        family: what is its own.
        made: attribute of what the methods for pictures put out, with the features.
    """

    family: ClassVar[Family]
    made: ClassVar[str] = names.POOLED
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
        encoded = call.arguments.get(names.ENCODED) or {}
        kinds = [
            kind
            for kind, one in self.family.pictures.items()
            if encoded.get(kind) is not None
            or any(call.arguments.get(name) is not None for name in one.pixels)
        ]
        named_pixels = (name for one in self.family.pictures.values() for name in one.pixels)
        pixels = {name: call.arguments.get(name) for name in named_pixels}
        return replace(call, kinds=frozenset(kinds), pictured=bool(kinds), pixels=pixels)

    def places(
        self, modality: str, args: tuple[Any, ...], kwargs: Arguments, made: Any
    ) -> list[Places]:
        """The places of every picture, read from features and arguments."""
        core, own = self._spec.core, self.family.pictures[modality]
        given = named(getattr(type(core), own.method), args, kwargs)
        features = family_features.held(made, self.made)
        rows = [one.reshape(-1, one.shape[-1]) for one in features]
        return own.read(core, given, rows)

    def tiled(self, modality: str) -> bool:
        """Whether the core is given tiles of such pictures."""
        return self.family.pictures[modality].begins is not None

    def whole_pictures(
        self, modality: str, shown: list[Places], prompts: Tensor | None
    ) -> list[Places]:
        """The user's pictures; where the core is given tiles, the prompts tell whose they are."""
        own = self.family.pictures[modality]
        begins = own.begins
        if begins is None or prompts is None or len(shown) < 2:
            return shown
        placeholder = self._spec.placeholders[modality]
        sizes = tiles_of(begins, prompts, placeholder, [one.units for one in shown])
        waiting = iter(shown)
        return [Places.of_tiles([*islice(waiting, size)], own.overview) for size in sizes]

    def overlaps(self, modality: str, args: tuple[Any, ...], kwargs: Arguments) -> str | None:
        """Told from the arguments, where the family's pictures may overlap."""
        core, own = self._spec.core, self.family.pictures[modality]
        if own.overlaps is None:
            return None
        return own.overlaps(core, named(getattr(type(core), own.method), args, kwargs))

    def may_overlap(self, modality: str) -> str | None:
        """Told from the config, where the family's pictures may overlap."""
        own = self.family.pictures[modality]
        return None if own.may_overlap is None else own.may_overlap(self._spec.core)

    def frames(
        self, modality: str, args: tuple[Any, ...], kwargs: Arguments
    ) -> Sequence[int] | None:
        """How many pictures each clip is for the tower, read from the arguments."""
        own = self.family.pictures[modality]
        if own.frames is None:
            return None
        return own.frames(named(getattr(type(self._spec.core), own.method), args, kwargs))

    def write_units(
        self, modality: str, units: Tensor, args: tuple[Any, ...], kwargs: Arguments
    ) -> Written:
        """Some units in the form in which the projector takes rows of pictures."""
        tower = self.family.pictures[modality].tower
        assert tower is not None
        assert tower.shown is not None
        return tower.shown(self._spec.core, units)

    def features(self, made: Any) -> Tensor:
        """All features, whatever the form in which the core has them."""
        found = family_features.held(made, self.made)
        rows = [one.reshape(-1, one.shape[-1]) for one in found]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def with_features(self, made: Any, features: Tensor) -> Any:
        """The core's own form, with other features."""
        return family_features.replaced(made, self.made, features)

    def spread(self, tower: Tower, output: Any, whole: Callable[[Tensor, int], Tensor]) -> Any:
        """A tower's outputs with rows for all patches in the states that are read."""
        return family_towers.spread(tower, output, whole)

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
        layers = list(language.layers)
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
        depths = llm_layers.depths(model.config)
        windows = llm_layers.windows(config)
        linear = llm_layers.linear(config)
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
            window=llm_layers.window(config, windows, flat=self.padding_masks()),
            windows=windows,
            joins=family.joins,
            masks=family.masks,
            base=full[0],
            chooses=llm_layers.chooses(config),
            partial=bool(self._whole()),
            placed=family.placed,
            injections=(deepstack.METHOD,) if depths else (),
            flat_layers=frozenset(linear),
            renumbers=llm_layers.renumbers(config, apart=family.apart),
            fixed_layers=llm_layers.fixed(config),
            special_ids=self._special_ids({one.placeholder_id for one in modalities.values()}),
            sound_ids=llm_layers.sound_ids(model.config),
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
        return frozenset({*llm_layers.special_ids(self.model), *placeholders})

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
