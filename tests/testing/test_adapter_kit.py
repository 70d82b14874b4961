"""The kit for adapters: sound ones pass, and every planted fault is found by the row for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenprune_adapters.transformers.family_table import ADAPTERS
from tokenprune_adapters.transformers.llava import LlavaAdapter
from torch import Tensor

from tests.families.calls import case_of
from tests.plugins.newcomer import MyVitAdapter
from tests.plugins.newcomers_model import MyVit
from tokenprune.errors import UnsupportedModelError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.places import Places
from tokenprune.interface.specs import EncoderSpec
from tokenprune.testing import Report, check_encoder_adapter, check_mllm_adapter

PIXELS = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
ROWS = ["claims", "parts", "keep all", "places", "tower", "shortened", "decoded"]
FAMILIES: dict[str, type[MllmAdapter]] = {kind.name: kind for kind in ADAPTERS}


def vit() -> MyVit:
    torch.manual_seed(0)
    return MyVit().eval()


def checked(kind: type[MyVitAdapter], model: Any = None) -> Report:
    return check_encoder_adapter(kind, model or vit(), lambda own: own(PIXELS))


def held(kind: type[MllmAdapter], name: str, scene: str = "two_sizes") -> Report:
    case = case_of(name)
    return check_mllm_adapter(kind, case.create(), case.alone(scene))


def faults(found: Report) -> list[str]:
    return [row.key for row in found.failed]


def test_a_sound_encoder_adapter_passes() -> None:
    found = checked(MyVitAdapter)
    found.require()
    assert [row.key for row in found.rows] == ["claims", "parts", "halves", "keep all", "shorter"]
    assert {row.status for row in found.rows} == {"pass"}
    assert "5 rows hold, 0 fail" in str(found)


def test_the_model_itself_is_left_alone() -> None:
    model = vit()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    checked(MyVitAdapter, model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class Stranger(MyVitAdapter):
    claims = ("somebody.elses.Vit",)


class Refusing(MyVitAdapter):
    def __init__(self, model: Any) -> None:
        raise UnsupportedModelError("'MyBlock' isn't supported.")


class Unjoined(MyVitAdapter):
    def join(self, block: Any, hidden: Tensor, attended: Tensor) -> Tensor:
        return super().join(block, hidden, attended) - hidden


class NoPrefix(MyVitAdapter):
    def spec(self) -> EncoderSpec:
        return replace(super().spec(), prefix=0, class_token=False)


class TooMany(MyVitAdapter):
    def spec(self) -> EncoderSpec:
        return replace(super().spec(), used=9)


class Flat(MyVitAdapter):
    def spec(self) -> EncoderSpec:
        return replace(super().spec(), grid=(3, 3))  # type: ignore[arg-type]


class Wide(MyVitAdapter):
    def spec(self) -> EncoderSpec:
        return replace(super().spec(), width=7)


@pytest.mark.parametrize(
    ("kind", "row", "told"),
    [
        (Stranger, "claims", "doesn't claim"),
        (Refusing, "claims", "'MyBlock' isn't supported"),
        (Unjoined, "halves", "differ from the block"),
        (NoPrefix, "parts", "10 tokens; prefix and grid are 9"),
        (TooMany, "parts", "9 used blocks of 3"),
        (Flat, "parts", "the grid is (3, 3), and it has to be (t, h, w)"),
        (Wide, "parts", "the spec's is 7"),
    ],
)
def test_a_fault_of_an_encoder_adapter_is_named(
    kind: type[MyVitAdapter], row: str, told: str
) -> None:
    found = checked(kind)
    assert row in faults(found)
    assert told in found.row(row).note
    with pytest.raises(AssertionError, match=row):
        found.require()


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_next", "gemma3"])
def test_a_sound_family_passes(name: str) -> None:
    found = held(FAMILIES[name], name)
    found.require()
    assert {row.key: row.status for row in found.rows} == dict.fromkeys(ROWS, "pass")


def test_a_family_with_a_projector_passes() -> None:
    found = held(LlavaAdapter, "llava", "several")
    # the second prompt of the scene has no picture, so nothing of it can be removed
    assert faults(found) == ["shortened"]
    assert "nothing was removed from prompt 1" in found.row("shortened").note
    held(LlavaAdapter, "llava").require()


def test_linear_attention_has_no_masked_reference() -> None:
    found = held(FAMILIES["qwen3_5"], "qwen3_5", "one")
    found.require()
    assert "linear attention" in found.row("shortened").note


def unplaced(original: Callable[..., Any]) -> Callable[..., Any]:
    """The LLM counts the positions of a shortened sequence itself."""

    def write_llm(self: Any, call: Any, args: Any, kwargs: Any) -> Any:
        counted = torch.arange(call.embeds.shape[1])[None]
        return original(self, replace(call, positions=counted), args, kwargs)

    return write_llm


def short(original: Callable[..., list[Places]]) -> Callable[..., list[Places]]:
    """Pictures with fewer units than placeholders."""

    def places(self: Any, *args: Any) -> list[Places]:
        return [replace(one, grid=(1, 1, one.units - 1)) for one in original(self, *args)]

    return places


def unwritten(original: Callable[..., Any]) -> Callable[..., Any]:
    """Layers aren't told of their masks."""

    def write_layer(self: Any, layer: Any, call: Any, args: Any, kwargs: Any) -> Any:
        return original(self, layer, replace(call, mask=None), args, kwargs)

    return write_layer


def elsewhere(original: Callable[..., list[Places]]) -> Callable[..., list[Places]]:
    """Units are taken for those of other patches."""

    def places(self: Any, *args: Any) -> list[Places]:
        found = original(self, *args)
        return [
            replace(one, sources=one.sources.flip(0)) for one in found if one.sources is not None
        ]

    return places


@pytest.mark.parametrize(
    ("name", "method", "plant", "row"),
    [
        ("llava_next", "places", elsewhere, "tower"),
        ("llava_next", "write_llm", unplaced, "shortened"),
        ("qwen2_5_vl", "places", short, "places"),
        ("gemma3", "write_layer", unwritten, "shortened"),
    ],
)
def test_a_fault_of_a_family_is_named(
    name: str, method: str, plant: Callable[..., Any], row: str
) -> None:
    sound = FAMILIES[name]
    planted = {method: plant(getattr(sound, method))}
    found = held(type("Planted", (sound,), planted), name)
    assert row in faults(found), str(found)


@pytest.mark.parametrize(
    ("name", "changed"),
    [("internvl", {"side": lambda core: 1}), ("gemma3", {"projector": "multi_modal_projector"})],
)
def test_a_tower_that_is_told_wrongly_is_named(name: str, changed: dict[str, Any]) -> None:
    """Of a unit of several patches, and of a projector that arranges patches itself."""
    sound: Any = FAMILIES[name]
    image = sound.family.pictures["image"]
    wrong = replace(image, tower=replace(image.tower, **changed))
    planted = {"family": replace(sound.family, pictures={"image": wrong})}
    assert "tower" in faults(held(type("Planted", (sound,), planted), name))


def test_pictures_that_are_refused_leave_no_demand_on_the_tower() -> None:
    found = held(FAMILIES["llava_onevision"], "llava_onevision", "video")
    found.require()
    assert "resized" in found.row("tower").note
