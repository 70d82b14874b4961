"""Parts of a block that are run as functions give what the modules give, and act as these do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from timm.layers.mlp import Mlp
from tokenprune_adapters.timm.parts import Parts
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.utils import parametrize

WIDTH = 6


def parts() -> tuple[Any, ...]:
    torch.manual_seed(0)
    scale = nn.Parameter(torch.rand(WIDTH))
    return nn.LayerNorm(WIDTH), Mlp(WIDTH, 2 * WIDTH), nn.Identity(), None, scale, nn.Dropout(0.5)


def called(chain: tuple[Any, ...], hidden: Tensor) -> Tensor:
    for part in chain:
        if isinstance(part, Tensor):
            hidden = hidden * part
        elif part is not None:
            hidden = part(hidden)
    return hidden


def states() -> Tensor:
    return torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))


def without_dropout() -> tuple[Any, ...]:
    return tuple(part.eval() if isinstance(part, nn.Module) else part for part in parts())


@contextmanager
def no_call(chain: tuple[Any, ...]) -> Iterator[None]:
    """Fail where one of the modules is called."""

    def refuse(module: nn.Module, args: Any) -> None:
        raise AssertionError(f"{type(module).__name__} was called")

    kinds = {
        type(module) for part in chain if isinstance(part, nn.Module) for module in part.modules()
    }
    with pytest.MonkeyPatch.context() as patch:
        for kind in kinds:
            patch.setattr(kind, "__call__", refuse)
        yield


@torch.no_grad()
def test_the_parts_give_the_modules_bits_and_none_is_called() -> None:
    chain, runner, hidden = without_dropout(), Parts(), states()
    expected = called(chain, hidden)
    with no_call(chain):
        found = runner(chain, hidden)
    assert torch.equal(found, expected)
    assert torch.equal(hidden, states())


@pytest.mark.parametrize("alone", [nn.GELU(), nn.GELU(approximate="tanh"), nn.Identity()])
@torch.no_grad()
def test_what_is_handed_in_is_never_written_to(alone: nn.Module) -> None:
    hidden = states()
    found = Parts()((alone,), hidden)
    assert torch.equal(hidden, states())
    assert torch.equal(found, alone(hidden))


@torch.no_grad()
def test_what_a_called_module_gave_is_never_written_to() -> None:
    kept: list[Tensor] = []
    chain = nn.Linear(WIDTH, WIDTH), nn.GELU()
    chain[0].register_forward_hook(lambda _, __, output: kept.append(output))
    found = Parts()(chain, states())
    assert not torch.equal(kept[0], found)
    assert torch.equal(chain[1](kept[0]), found)


def test_gradients_are_the_modules() -> None:
    chain, hidden = without_dropout(), states().requires_grad_()
    expected = torch.autograd.grad(called(chain, hidden).square().sum(), (hidden, chain[4]))
    found = torch.autograd.grad(Parts()(chain, hidden).square().sum(), (hidden, chain[4]))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_dropout_acts_in_training() -> None:
    chain, hidden = parts(), torch.ones(4, 50, WIDTH)
    assert (Parts()(chain, hidden) == 0).any()
    assert not (Parts()(without_dropout(), hidden) == 0).all()


def double(_: nn.Module, __: Any, output: Tensor) -> Tensor:
    return 2 * output


def hooked(mlp: Mlp) -> None:
    mlp.fc1.register_forward_hook(double)


def hooked_whole(mlp: Mlp) -> None:
    mlp.register_forward_hook(double)


def hooked_idle(mlp: Mlp) -> None:
    mlp.drop1.register_forward_hook(double)


def hooked_before(mlp: Mlp) -> None:
    mlp.act.register_forward_pre_hook(lambda _, args: (args[0] + 1,))


def other_forward(mlp: Mlp) -> None:
    mlp.fc2.forward = lambda hidden: hidden.mean(-1, keepdim=True).expand(-1, -1, WIDTH)  # type: ignore[method-assign,assignment]


def exchanged(mlp: Mlp) -> None:
    mlp.act = nn.Tanh()


def adapted_by_low_rank(mlp: Mlp) -> None:
    mlp.fc1 = nn.Sequential(mlp.fc1, nn.Linear(2 * WIDTH, 2 * WIDTH))


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 0.5 * weight


def computed_weight(mlp: Mlp) -> None:
    parametrize.register_parametrization(mlp.fc1, "weight", Halved())


def computed_bias(mlp: Mlp) -> None:
    parametrize.register_parametrization(mlp.fc2, "bias", Halved())


def further_step(mlp: Mlp) -> None:
    """What a later release might do."""
    mlp.__class__ = type("Mlp", (Mlp,), {"forward": _further(Mlp.forward)})
    mlp.further = nn.Tanh()


def _further(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def further(self: Any, x: Tensor) -> Tensor:
        made: Tensor = self.further(forward(self, x))
        return made

    further.__module__, further.__qualname__ = forward.__module__, forward.__qualname__
    return further


def own_weight(mlp: Mlp) -> None:
    weight = mlp.fc1.weight.detach() * 3
    del mlp.fc1._parameters["weight"]
    mlp.fc1.weight = weight  # type: ignore[assignment]


CHANGES = [
    hooked,
    hooked_whole,
    hooked_idle,
    hooked_before,
    other_forward,
    exchanged,
    adapted_by_low_rank,
    computed_weight,
    computed_bias,
    further_step,
    own_weight,
]


@pytest.mark.parametrize("ran", [False, True], ids=["at once", "after a run"])
@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_whatever_hangs_on_a_module_acts(change: Callable[[Mlp], None], ran: bool) -> None:
    chain, runner, hidden = without_dropout(), Parts(), states()
    before = called(chain, hidden)
    if ran:
        assert torch.equal(runner(chain, hidden), before)
    change(chain[1])
    expected = called(chain, hidden)
    assert not torch.allclose(expected, before)
    for _ in range(2):
        assert torch.equal(runner(chain, hidden), expected)


@torch.no_grad()
def test_hooks_of_all_modules_see_every_one_of_them() -> None:
    chain, runner, seen = without_dropout(), Parts(), []
    runner(chain, states())
    handle = register_module_forward_pre_hook(lambda module, args: seen.append(type(module)))
    try:
        runner(chain, states())
    finally:
        handle.remove()
    assert seen == [nn.LayerNorm, Mlp, *map(type, chain[1].children()), nn.Identity, nn.Dropout]
    with no_call(chain):
        runner(chain, states())


@torch.no_grad()
def test_a_forward_that_was_put_into_a_class_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    chain, runner, hidden = without_dropout(), Parts(), states()
    runner(chain, hidden)
    monkeypatch.setattr(Mlp, "forward", lambda self, x: x + 1)
    assert torch.equal(runner(chain, hidden), called(chain, hidden))


@torch.no_grad()
def test_parts_are_idle_as_long_as_nothing_hangs_on_them() -> None:
    idle, runner = (nn.Identity(), None, nn.Identity()), Parts()
    assert runner.idle(idle)
    assert not runner.idle((*idle, nn.LayerNorm(WIDTH)))
    idle[2].register_forward_hook(double)
    assert not runner.idle(idle)
    assert torch.equal(runner(idle, states()), 2 * states())


@torch.no_grad()
def test_a_scripted_module_is_called() -> None:
    chain, hidden = without_dropout(), states()
    scripted = (chain[0], torch.jit.trace(chain[1], hidden), *chain[2:])
    torch.testing.assert_close(Parts()(scripted, hidden), called(chain, hidden))
