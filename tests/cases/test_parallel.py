"""Models whose heads are spread over processes: what reads their attention is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import distributed, nn

import tokenprune
from tests import models
from tests.mllm.plans import drawn, fastv, plan, tome
from tokenprune.errors import SignalError, UnsupportedCallError

SPLIT = "q_proj", "k_proj", "v_proj"
READING = {
    "encoder": tome(),
    "pre_llm": {"at": "pre_llm", "strategy": "fopru", "keep": 9},
    "decoder": fastv(),
}
NOT_READING = {
    "encoder": {"at": "encoder", "strategy": "random", "keep": 18, "layer": 2},
    "pre_llm": drawn(),
    "decoder": drawn(at="decoder", layer=2),
}
PART = {"encoder": "vision_tower", "pre_llm": "vision_tower", "decoder": "language_model"}


@pytest.fixture
def processes(request: pytest.FixtureRequest) -> Iterator[int]:
    """This process as one of several, of which nobody answers."""
    fake = pytest.importorskip("torch.testing._internal.distributed.fake_pg")
    distributed.init_process_group("fake", rank=0, world_size=request.param, store=fake.FakeStore())
    yield request.param
    distributed.destroy_process_group()


def parallel(model: Any, part: str, processes: int) -> nn.Module:
    """A model of whose attention, in its tower or its LLM, each process has some heads."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    mesh, how = init_device_mesh("cpu", (processes,)), dict[str, Any]()
    for name, _ in model.named_modules():
        if f".{part}." in name and name.endswith(SPLIT):
            how[name] = ColwiseParallel()
        elif f".{part}." in name and name.endswith(("o_proj", "out_proj")):
            how[name] = RowwiseParallel()
    assert how
    made: nn.Module = parallelize_module(model, mesh, how)
    return made


@pytest.mark.parametrize("processes", [2], indirect=True)
@pytest.mark.parametrize("place", READING)
def test_strategies_that_read_some_of_the_heads_are_refused(place: str, processes: int) -> None:
    model = parallel(models.llava_clip(), PART[place], processes)
    whole = set(vars(model.get_submodule("model")))
    with pytest.raises(SignalError, match=r"^stages\.0 .*tensor parallelism.*no attention"):
        tokenprune.attach(model, plan(READING[place]))
    assert set(vars(model.get_submodule("model"))) == whole
    tokenprune.attach(model, plan(NOT_READING[place])).detach()


@pytest.mark.parametrize("processes", [2], indirect=True)
@pytest.mark.parametrize(("place", "other"), [("encoder", "decoder"), ("decoder", "encoder")])
def test_heads_that_nobody_reads_may_be_spread(place: str, other: str, processes: int) -> None:
    model = parallel(models.llava_clip(), PART[other], processes)
    tokenprune.attach(model, plan(READING[place])).detach()


@pytest.mark.parametrize("processes", [1], indirect=True)
@torch.no_grad()
def test_heads_of_one_process_are_all_of_them(processes: int) -> None:
    model = parallel(models.llava_clip(), PART["decoder"], processes)
    tokenprune.attach(model, plan(READING["decoder"])).detach()


@pytest.mark.parametrize("processes", [2], indirect=True)
@pytest.mark.parametrize("place", READING)
@torch.no_grad()
def test_heads_spread_behind_the_attaching_are_refused_at_the_call(
    place: str, processes: int
) -> None:
    model = models.llava_clip()
    inputs = models.llava_inputs([[1, models.IMAGE_TOKEN, 2]])
    with tokenprune.attach(model, plan(READING[place])):
        parallel(model, PART[place], processes)
        with pytest.raises(UnsupportedCallError, match=r"^stages\.0 .*since the plan"):
            model(**inputs)


@pytest.mark.parametrize("processes", [2], indirect=True)
@pytest.mark.parametrize("place", READING)
def test_what_fsdp_shards_behind_the_attaching_is_whole_where_it_is_used(
    place: str, processes: int
) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = models.llava_clip()
    with tokenprune.attach(model, plan(READING[place])) as handle:
        fully_shard(model.get_submodule(f"model.{PART[place]}"), mesh=init_device_mesh("cpu", (2,)))
        assert any(hasattr(weight, "placements") for weight in model.parameters())
        handle.heads.require(model)
