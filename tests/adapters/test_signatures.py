"""A release of a model library that renames an argument is refused at attach, by name."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenprune_adapters.shared.signatures import Relied
from torch import nn

import tokenprune
from tests import models
from tests.families.cases import CASES
from tests.mllm.calls import SHORT, inputs, logits
from tests.mllm.plans import drawn, plan
from tokenprune.errors import DependencyError, UnsupportedModelError
from tokenprune.interface import versions

FAST = {"at": "decoder", "strategy": "fastv", "layer": 2, "keep": 0.5}


class Taking:
    def named(self, hidden: Any, mask: Any = None, *, cache: Any = None) -> None: ...

    def anything(self, hidden: Any, **kwargs: Any) -> None: ...

    def handing_on(self, x: Any, *args: Any, **kwargs: Any) -> None: ...


@pytest.mark.parametrize(
    ("relied", "words"),
    [
        (Relied(Taking(), "named", ("mask", "cache"), ("hidden",)), None),
        (Relied(Taking(), "named", (("past", "cache"),)), None),
        (Relied(Taking(), "named", (("past", "state"),)), "no longer takes 'past' or 'state'"),
        (Relied(Taking(), "named", first=("mask",)), "no longer begins with 'mask'"),
        (Relied(Taking(), "named", first=(("x", "hidden"), "mask")), None),
        (Relied(Taking(), "named", first=(("x", "y"),)), "no longer begins with 'x' or 'y'"),
        (Relied(Taking(), "gone"), "no longer exists"),
        (Relied(Taking(), "anything", ("mask",)), "no longer takes 'mask'"),
        (Relied(Taking(), "anything", first=("mask",)), "no longer begins with 'mask'"),
        (Relied(Taking(), "handing_on", first=("hidden", "mask")), None),
    ],
)
def test_what_is_missing(relied: Relied, words: str | None) -> None:
    assert relied.missing() == words


def without(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The same method in a release that calls one of its parameters otherwise."""
    signature = inspect.signature(function)
    left = [
        p.replace(name="renamed") if p.name == name else p for p in signature.parameters.values()
    ]
    other = functools.wraps(function)(lambda *args, **kwargs: function(*args, **kwargs))
    other.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]
    return other


def parts(of: Any) -> dict[str, tuple[Any, str, str]]:
    language = of.model.language_model
    return {
        "core": (of.model, "forward", "pixel_values"),
        "LLM": (language, "forward", "position_ids"),
        "layer": (language.layers[1], "forward", "position_embeddings"),
        "generate": (of, "prepare_inputs_for_generation", "attention_mask"),
        "rotary": (language.rotary_emb, "forward", "position_ids"),
        "projector": (of.model.multi_modal_projector, "forward", "image_features"),
        "tower": (of.model.vision_tower.encoder.layers[0], "forward", "hidden_states"),
    }


@pytest.mark.parametrize("part", [*parts(models.llava_clip())])
def test_a_renamed_argument_is_refused_and_the_model_stays(part: str) -> None:
    of, call = models.llava_clip(), inputs(SHORT)
    want = logits(of, call)
    owner, method, name = parts(of)[part]
    owner.__dict__[method] = without(name, getattr(owner, method))
    with pytest.raises(UnsupportedModelError, match=f"'{name}'") as caught:
        tokenprune.attach(of, plan(FAST))
    assert caught.value.where.startswith("transformers ")
    assert "Tested: transformers>=5." in caught.value.remedy
    del owner.__dict__[method]
    assert torch.equal(logits(of, call), want)
    with tokenprune.attach(of, plan(FAST)):
        logits(of, call)


class Trained(nn.Module):
    """What PEFT puts around a module that is trained whole beside adapters (`modules_to_save`)."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.inside(x, *args, **kwargs)


@pytest.mark.parametrize("place", ["encoder", "pre_llm", "decoder"])
@pytest.mark.parametrize(
    ("name", "path"), [("llava", "multi_modal_projector"), ("qwen2_5_vl", "visual.merger")]
)
def test_what_hands_on_its_arguments_may_name_them_otherwise(
    name: str, path: str, place: str
) -> None:
    case = CASES[name]
    of, call = case.create(), case.inputs("several")
    wanted = plan({**drawn(keep=0.5, at=place), **({"layer": 2} if place != "pre_llm" else {})})
    with tokenprune.attach(of, wanted):
        expected = logits(of, call)
    dense = logits(of, call)
    core = of.model
    core.set_submodule(path, Trained(core.get_submodule(path)))
    with tokenprune.attach(of, wanted):
        assert torch.equal(logits(of, call), expected)
    assert torch.equal(logits(of, call), dense)


def test_a_cache_of_no_known_name_is_refused() -> None:
    of = models.llava_clip()
    layer = of.model.language_model.layers[0]
    for name in ("cache", "past_key_values"):
        layer.__dict__["forward"] = without(name, layer.forward)
    with pytest.raises(UnsupportedModelError, match="'cache' or 'past_key_values'"):
        tokenprune.attach(of, plan(FAST))


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretends that another release of transformers is installed."""
    real = versions.installed

    def pretend(version: str) -> None:
        monkeypatch.setattr(
            versions, "installed", lambda name: version if name == "transformers" else real(name)
        )

    versions.warn_newer.cache_clear()
    yield pretend
    versions.warn_newer.cache_clear()


def test_a_newer_release_is_a_warning_that_is_given_once(release: Any) -> None:
    of = models.llava_clip()
    release("5.99.0")
    with pytest.warns(versions.UntestedVersionWarning, match="tokenprune verify"):
        tokenprune.attach(of, plan(FAST)).detach()
    with warnings.catch_warnings():
        warnings.simplefilter("error", versions.UntestedVersionWarning)
        tokenprune.attach(of, plan(FAST)).detach()


def test_an_older_release_is_refused(release: Any) -> None:
    of, call = models.llava_clip(), inputs(SHORT)
    want = logits(of, call)
    release("5.16.1")
    with pytest.raises(DependencyError, match="older than every tested"):
        tokenprune.attach(of, plan(FAST))
    assert torch.equal(logits(of, call), want)
