"""Models that another library wraps are refused with the way out; attached ones aren't pickled."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import distributed, nn

import tokenprune
from tests import models
from tests.contract.cases import footprint
from tests.mllm.calls import SHORT, inputs, logits
from tests.mllm.plans import plan
from tokenprune.errors import AlreadyAttachedError, UnsupportedModelError

FAST = plan({"at": "decoder", "strategy": "fastv", "layer": 2, "keep": 0.5})
TOME = plan({"at": "encoder", "strategy": "tome", "keep": 20})


def refused(model: nn.Module) -> str:
    with pytest.raises(UnsupportedModelError) as caught:
        tokenprune.attach(model, FAST)
    return str(caught.value)


@pytest.fixture
def process_group() -> Iterator[None]:
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_distributed_data_parallel_is_refused_and_its_module_served() -> None:
    model = models.llava_clip()
    wrapped = nn.parallel.DistributedDataParallel(model)
    assert "DistributedDataParallel isn't served. Attach to its .module." in refused(wrapped)
    call = inputs(SHORT)
    dense = logits(model, call)
    with tokenprune.attach(wrapped.module, FAST) as handle:
        assert not torch.equal(logits(wrapped, call), dense)
        assert handle.trace.images


def test_data_parallel_is_refused() -> None:
    assert ".module" in refused(nn.DataParallel(models.llava_clip()))


@pytest.mark.usefixtures("process_group")
def test_sharded_models_are_refused() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = models.llava_clip()
    fully_shard(model.lm_head, mesh=init_device_mesh("cpu", (1,)))
    said = refused(model)
    assert "lm_head" in said
    assert "isn't sharded" in said


def test_compiled_models_are_refused_whole_or_in_part() -> None:
    model = models.llava_clip()
    assert "OptimizedModule isn't served. Attach before compiling." in refused(torch.compile(model))
    model.compile()
    assert refused(model).startswith("this LlavaForConditionalGeneration is compiled already.")
    model = models.llava_clip()
    layers = model.model.language_model.layers
    layers[1].compile()
    said = refused(model)
    assert said.startswith("LlavaForConditionalGeneration, model.language_model.layers.1: ")
    layers[1] = torch.compile(nn.Linear(2, 2))
    assert "OptimizedModule" in refused(model)


def test_peft_models_are_refused_and_what_they_wrap_is_served() -> None:
    peft = pytest.importorskip("peft", reason="peft is no dependency")
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(models.llava_clip(), config)
    assert "PeftModel isn't served. Attach to its get_base_model()." in refused(wrapped)
    call = inputs(SHORT)
    dense = logits(wrapped, call)
    with tokenprune.attach(wrapped.get_base_model(), FAST):
        assert not torch.equal(logits(wrapped, call), dense)
    assert torch.equal(logits(wrapped, call), dense)


class PeftModel(nn.Module):
    """A double of peft's, which need not be installed."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.base_model = inside


@pytest.mark.parametrize(("module", "is_refused"), [("peft.peft_model", True), ("pefty", False)])
def test_wrappers_are_known_by_package_and_name(
    monkeypatch: pytest.MonkeyPatch, module: str, is_refused: bool
) -> None:
    monkeypatch.setattr(PeftModel, "__module__", module)
    assert ("get_base_model" in refused(PeftModel(models.llava_clip()))) is is_refused


PICKLING: dict[str, Callable[[Any], object]] = {
    "pickle": pickle.dumps,
    "pickle in Python": lambda model: pickle._dumps(model),  # type: ignore[attr-defined]
    "torch.save": lambda model: torch.save(model, io.BytesIO()),
    "a part": lambda model: pickle.dumps(model.model),
}


@pytest.mark.parametrize(
    ("family", "how"),
    [
        *(("llava_clip", how) for how in PICKLING),
        *((family, how) for family in ("clip_vision", "timm_vit") for how in [*PICKLING][:3]),
    ],
)
def test_an_attached_model_says_detach_first_and_is_pickled_afterwards(
    family: str, how: str
) -> None:
    model = getattr(models, family)()
    whole, weights = footprint(model), copy.deepcopy(model.state_dict())
    with tokenprune.attach(model, TOME):
        with pytest.raises(AlreadyAttachedError, match=r"can't be pickled\. Call detach\(\)"):
            PICKLING[how](model)
        kept = model.state_dict()
        assert kept.keys() == weights.keys()
        assert all(torch.equal(kept[key], weights[key]) for key in weights)
        torch.save(kept, io.BytesIO())
    assert footprint(model) == whole
    PICKLING[how](model)


def test_a_copy_does_not_carry_the_refusal() -> None:
    model = models.llava_clip()
    with tokenprune.attach(model, FAST):
        twin = copy.deepcopy(model)
    assert not any("__reduce_ex__" in vars(module) for module in twin.modules())
