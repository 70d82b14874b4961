"""What changes in an encoder after its passes were recorded: none of it is replayed away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import models
from tests.contract.cases import ENCODER_STAGES, KEEP, attached
from tests.recording import Simulated, simulate


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Simulated:
    return simulate(monkeypatch)


def halved(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data * 0.5


def at_the_same_place(model: nn.Module) -> None:
    """Other types in the memory of the old ones."""
    for parameter in model.parameters():
        half = (parameter.detach() * 0.5).to(torch.bfloat16)
        room = parameter.data.view(torch.bfloat16).flatten()[: half.numel()].view(half.shape)
        parameter.data = room.copy_(half)


def assigned(model: nn.Module) -> None:
    state = {name: value * 0.5 for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def exchanged(model: nn.Module) -> None:
    block = next(one for one in model.modules() if hasattr(one, "mlp"))
    block.mlp.fc1 = nn.Linear(models.WIDTH, 2 * models.WIDTH).eval()


@pytest.mark.parametrize("change", [halved, at_the_same_place, assigned, exchanged])
@torch.no_grad()
def test_weights_that_are_replaced_are_recorded_anew(
    change: Callable[[nn.Module], None], simulated: Simulated
) -> None:
    model, pictures = models.clip_vision(), models.pixels(2)
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP) as handle:
        handle.record()
        before = [model(pictures).last_hidden_state for _ in range(3)][-1]
        change(model)
        found = [model(pictures).last_hidden_state for _ in range(3)]
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP):
        plain = model(pictures).last_hidden_state
    assert not torch.equal(plain, before)
    assert all(torch.equal(one, plain) for one in found)
    assert simulated.recorded == 2
    # where the old memory is kept, one replay was under way when the change was noticed
    assert simulated.replayed in (4, 5)


class Switched(nn.Linear):
    """A layer with adapters, as libraries of adapters wrap it."""

    off = False

    def __init__(self) -> None:
        super().__init__(models.WIDTH, 2 * models.WIDTH)
        self.scales, self.merged = {"one": 1.0}, list[str]()

    def forward(self, hidden: Tensor) -> Tensor:
        plain = super().forward(hidden)
        return plain if self.off or self.merged else plain * (1 + self.scales["one"])


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: setattr(layer, "off", True),
        lambda layer: layer.merged.append("one"),
        lambda layer: layer.scales.update(one=0.5),
    ],
    ids=["switched", "merged", "scaled"],
)
@torch.no_grad()
def test_switches_of_modules_are_recorded_anew(
    change: Callable[[Switched], object], simulated: Simulated
) -> None:
    model, pictures, layer = models.clip_vision(), models.pixels(2), Switched().eval()
    block: Any = next(one for one in model.modules() if hasattr(one, "mlp"))
    block.mlp.fc1 = layer
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP).record():
        before = [model(pictures).last_hidden_state for _ in range(3)][-1]
        assert simulated.recorded == 1
        change(layer)
        found = [model(pictures).last_hidden_state for _ in range(3)][-1]
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP):
        plain = model(pictures).last_hidden_state
    assert not torch.equal(plain, before)
    assert torch.equal(found, plain)
    # a simulated replay runs the function, which looks at the switch
    assert simulated.recorded == 2


@torch.no_grad()
def test_weights_that_are_written_to_are_read_by_replays(simulated: Simulated) -> None:
    model, pictures = models.clip_vision(), models.pixels(2)
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP).record():
        for _ in range(3):
            model(pictures)
        for parameter in model.parameters():
            parameter.mul_(0.5)
        found = model(pictures).last_hidden_state
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP):
        assert torch.equal(found, model(pictures).last_hidden_state)
    assert simulated.recorded == 1
    assert simulated.replayed == 3
