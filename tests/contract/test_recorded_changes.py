"""What changes in an encoder after its passes were recorded: none of it is replayed away."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests import models
from tests.contract.cases import ENCODER_STAGES, KEEP, attached
from tests.recording import Simulated, simulate
from tokenprune.ops import use_backend

aten = torch.ops.aten


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Simulated:
    return simulate(monkeypatch)


def mlp_of(model: nn.Module) -> Any:
    return next(
        one.mlp for one in model.modules() if isinstance(getattr(one, "mlp", None), nn.Module)
    )


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
    mlp_of(model).fc1 = nn.Linear(models.WIDTH, 2 * models.WIDTH).eval()


def cut(model: nn.Module) -> None:
    """Other sizes in the memory of the old ones, which are read by the same strides."""
    mlp = mlp_of(model)
    mlp.fc1.weight.data, mlp.fc1.bias.data = mlp.fc1.weight.data[:9], mlp.fc1.bias.data[:9]
    mlp.fc2.weight.data = mlp.fc2.weight.data[:, :9]


def turned(model: nn.Module) -> None:
    """Other strides in the memory of the old ones."""
    weight = next(one for one in model.parameters() if one.dim() == 2 and len(set(one.shape)) == 1)
    weight.data = weight.data.T


def refilled(model: nn.Module) -> None:
    """Other tensors in a dictionary of the caller's own."""
    layer = mlp_of(model).fc1
    layer._parameters = {name: nn.Parameter(one * 0.5) for name, one in layer._parameters.items()}


def refurnished(model: nn.Module) -> None:
    """Another module in a dictionary of the caller's own."""
    mlp = mlp_of(model)
    mlp._modules = {**mlp._modules, "fc1": nn.Linear(models.WIDTH, 2 * models.WIDTH).eval()}


def loosened(model: nn.Module) -> None:
    """A plain tensor where a parameter stood."""
    layer = mlp_of(model).fc1
    weight = layer.weight.detach() * 0.5
    del layer.weight
    layer.weight = weight


@pytest.mark.parametrize(
    "change",
    [
        *(halved, at_the_same_place, assigned, exchanged, cut, turned, refilled, refurnished),
        loosened,
    ],
)
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
    mlp_of(model).fc1 = layer
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


def doubled(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args: forward(*args) * 2


def patch_class(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
    kind = type(mlp_of(model))
    patch.setattr(kind, "forward", doubled(kind.forward))


def patch_class_of_torch(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(nn.Linear, "forward", doubled(nn.Linear.forward))


def patch_base(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Scaled, "scale", 3.0)


def swap_class(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
    mlp = mlp_of(model)
    kind = type(mlp)
    mlp.__class__ = type("Other", (kind,), {"forward": doubled(kind.forward)})


def patch_method(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
    convolution = next(one for one in model.modules() if isinstance(one, nn.Conv2d))
    patch.setattr(convolution, "_conv_forward", doubled(convolution._conv_forward))


def set_number_of_a_layer(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
    next(one for one in model.modules() if isinstance(one, nn.LayerNorm)).eps = 0.5


def swap_function(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
    mlp_of(model).activation_fn.act = torch.tanh


def write_to_list_of_config(model: Any, patch: pytest.MonkeyPatch) -> None:
    model.config.scales["mlp"].append(3.0)


class Scaled(nn.Module):
    """Reads a number of its class, and a list of a config."""

    scale = 2.0

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, self.act = config, torch.sigmoid

    def forward(self, hidden: Tensor) -> Tensor:
        return self.act(hidden) * self.scale * sum(self.config.scales["mlp"])


class Derived(Scaled):
    """Inherits what it reads."""


@pytest.mark.parametrize(
    "change",
    [
        *(patch_class, patch_class_of_torch, patch_base, swap_class, patch_method),
        *(set_number_of_a_layer, swap_function, write_to_list_of_config),
    ],
)
@torch.no_grad()
def test_code_and_what_it_reads_are_recorded_anew(
    change: Callable[[Any, pytest.MonkeyPatch], None],
    simulated: Simulated,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, pictures = models.clip_vision(), models.pixels(2)
    model.config.scales = {"mlp": [1.0]}
    mlp_of(model).activation_fn = Derived(model.config).eval()
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP).record():
        before = [model(pictures).last_hidden_state for _ in range(3)][-1]
        assert simulated.recorded == 1
        change(model, monkeypatch)
        found = [model(pictures).last_hidden_state for _ in range(3)][-1]
        assert not torch.equal(found, before)
    # a simulated replay runs the function, which reads all this anew
    assert simulated.recorded == 2


@torch.no_grad()
def test_a_forward_that_is_replaced_later_runs(simulated: Simulated) -> None:
    model, pictures, seen = models.clip_vision(), models.pixels(2), list[int]()
    layer = mlp_of(model).fc1
    plain = layer.forward

    def forward(hidden: Tensor) -> Tensor:
        seen.append(1)
        return plain(hidden)

    with attached(model, ENCODER_STAGES["tome"], keep=KEEP).record():
        for _ in range(3):
            model(pictures)
        layer.forward = forward
        for _ in range(3):
            model(pictures)
    # one replay was under way when it was noticed; a simulated one runs the function
    assert len(seen) == 3 + 1


@pytest.mark.parametrize("kind", ["forward", "forward_pre"])
@torch.no_grad()
def test_hooks_in_a_dictionary_of_the_callers_own_run(kind: str, simulated: Simulated) -> None:
    model, pictures, seen = models.clip_vision(), models.pixels(2), list[int]()
    mlp = mlp_of(model)
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP).record() as handle:
        for _ in range(3):
            model(pictures)
        setattr(mlp, f"_{kind}_hooks", OrderedDict())
        model(pictures)
        assert simulated.recorded == 1
        getattr(mlp, f"register_{kind}_hook")(lambda *_: seen.append(1))
        for _ in range(3):
            model(pictures)
        assert any("a hook stands on a CLIPMLP" in note for note in handle.report().notes)
    assert simulated.replayed == 3 + 1
    assert len(seen) == 3 + 1


@contextmanager
def precise() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    "mode",
    [
        *(precise, deterministic, torch.inference_mode),
        *(lambda: sdpa_kernel(SDPBackend.MATH), lambda: use_backend("reference")),
    ],
)
@torch.no_grad()
def test_passes_by_other_kernels_are_another_kind(
    mode: Callable[[], AbstractContextManager[None]], simulated: Simulated
) -> None:
    model, pictures = models.clip_vision(), models.pixels(2)
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP).record():
        for _ in range(2):
            model(pictures)
        with mode():
            for _ in range(2):
                model(pictures)
        assert simulated.recorded == 2
        model(pictures)
    assert simulated.recorded == 2


class Wrapped(Tensor):
    """A tensor whose values stand in another one, as those of quantized weights do."""

    inner: Tensor

    @staticmethod
    def __new__(cls: type[Wrapped], inner: Tensor) -> Any:
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plain = [one.inner if isinstance(one, Wrapped) else one for one in args]
        made = func(*plain, **(kwargs or {}))
        return cls(made) if func in (aten.detach.default, aten.t.default) else made


@pytest.mark.parametrize("made", [Wrapped, Tensor.to_sparse], ids=["wrapped", "sparse"])
@torch.no_grad()
def test_weights_whose_memory_is_unknown_run_as_usual(
    made: Callable[[Tensor], Tensor], simulated: Simulated
) -> None:
    model, pictures = models.clip_vision(), models.pixels(2)
    layer = mlp_of(model).fc1
    layer.weight = nn.Parameter(made(layer.weight.detach()), requires_grad=False)
    with attached(model, ENCODER_STAGES["tome"], keep=KEEP) as handle:
        plain = model(pictures).last_hidden_state
        handle.record()
        assert all(torch.equal(model(pictures).last_hidden_state, plain) for _ in range(3))
        assert any("among its weights is in memory" in note for note in handle.report().notes)
    assert simulated.recorded == 0


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
