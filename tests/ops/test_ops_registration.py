"""The dispatcher, `torch.compile`, operator checks and FLOP counting."""

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from tokenprune import ops
from tokenprune.errors import BackendUnavailableError
from tokenprune.ops import dispatch, flop_formulas
from tokenprune.ops.registering import operation

CPU = torch.ones(1)
no_interpreter = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter runs Triton on the CPU"
)


def test_the_cpu_gets_the_reference_with_a_reason() -> None:
    choice = ops.choose("knn_density", CPU)
    assert choice.backend == "reference"
    assert "cpu" in choice.reason


@no_interpreter
def test_asking_for_triton_where_it_cannot_run_is_an_error_with_its_reason() -> None:
    with (
        ops.use_backend("triton"),
        pytest.raises(BackendUnavailableError, match="compiled for CUDA devices"),
    ):
        ops.topk_indices(torch.ones(1, 3), 1)
    assert ops.topk_indices(torch.ones(1, 3), 1).tolist() == [[0]]


def test_an_unknown_backend_is_an_error() -> None:
    with pytest.raises(BackendUnavailableError, match="'cuda'"):
        ops.use_backend("cuda")  # type: ignore[arg-type]


def test_overrides_nest_and_end_with_their_block() -> None:
    with ops.use_backend("reference"):
        assert "use_backend" in ops.choose("knn_density", CPU).reason
        with ops.use_backend("auto"):
            assert "use_backend" not in ops.choose("knn_density", CPU).reason
        assert "use_backend" in ops.choose("knn_density", CPU).reason
    assert "use_backend" not in ops.choose("knn_density", CPU).reason


def test_an_override_does_not_reach_other_threads() -> None:
    seen: list[ops.OpChoice] = []
    with ops.use_backend("reference"):
        other = threading.Thread(target=lambda: seen.append(ops.choose("knn_density", CPU)))
        other.start()
        other.join()
    assert "use_backend" not in seen[0].reason


@pytest.mark.parametrize(
    ("device", "dtype", "problem", "backend", "words"),
    [
        ("cuda", torch.float32, None, "triton", "cuda tensors"),
        ("cuda", torch.float64, None, "reference", "float64"),
        ("cuda", torch.float32, "triton is missing", "reference", "missing"),
        ("mps", torch.float32, None, "reference", "mps"),
    ],
)
def test_choices_by_device(
    monkeypatch: pytest.MonkeyPatch,
    device: str, dtype: torch.dtype, problem: str | None, backend: str, words: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(dispatch, "_triton_problem", lambda: problem)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    choice = dispatch._decide("knn_density", torch.device(device), dtype)
    assert choice.backend == backend
    assert words in choice.reason


def test_an_old_device_gets_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_triton_problem", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 1))
    assert "capability" in ops.explain("cuda")[0].reason


@no_interpreter
def test_explain_names_every_operation_and_never_raises() -> None:
    names = {choice.op for choice in ops.explain()}
    assert names == {*dispatch.KERNELS, *dispatch.PLAIN}
    with ops.use_backend("triton"):
        choices = ops.explain("cpu")
    assert {choice.backend for choice in choices} == {"none", "reference"}
    assert all(choice.reason for choice in choices)


def every_op(query: Tensor, key: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    score = ops.attention_received(query, key, skip=1) + ops.attention_row(query, key)[:, 1:]
    score = score + ops.attend(query, key, key, skip=1)[1]
    density = ops.knn_density(x, neighbours=3, tau=None)
    value, partner = ops.bipartite_match(x[:, ::2], x[:, 1::2], gain_a=density[:, ::2], squash=True)
    best, (moved,) = ops.topk_gather(value, 2, partner)
    slot = torch.full(x.shape[:2], -1).scatter(1, best * 2, moved)
    sizes = ops.sum_compact(torch.ones_like(score), slot, x.shape[1] // 2)
    return ops.merge_compact(x, slot, score, x.shape[1] // 2), sizes, ops.topk_indices(score, 4)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 2, 11, 4), torch.randn(2, 2, 11, 4), torch.randn(2, 10, 6)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_all_operations_compile_into_one_graph(backend: str) -> None:
    compiled = torch.compile(every_op, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(*inputs()), every_op(*inputs()))


def test_compiled_code_can_be_differentiated() -> None:
    x = torch.randn(1, 4, 3, requires_grad=True)
    slot, weight = torch.tensor([[0, 0, 1, -1]]), torch.ones(1, 4)

    def loss(t: Tensor) -> Tensor:
        merged = ops.merge_compact(t, slot, weight, 2)
        return ops.topk_gather(weight[:, :2], 1, merged)[1][0].sum()

    torch.compile(loss, fullgraph=True, backend="aot_eager")(x).backward()
    assert x.grad is not None
    assert x.grad[0, :, 0].tolist() == [0.5, 0.5, 0.0, 0.0]


SCORES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "attention_received": lambda query, key, x: ops.attention_received(query, key, skip=1),
    "received_from_lse": lambda query, key, x: ops.received_from_lse(
        query, key, (query * key).sum(-1), skip=1
    ),
    "knn_density": lambda query, key, x: ops.knn_density(x, neighbours=3, tau=None),
    "bipartite_match": lambda query, key, x: ops.bipartite_match(x, x)[0],
}


@pytest.mark.parametrize("name", SCORES)
def test_scores_take_part_in_a_loss_as_constants(name: str) -> None:
    query, key, x = (each.requires_grad_() for each in inputs())
    score = SCORES[name](query, key, x)
    assert not score.requires_grad
    (x * score[..., None]).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, score[..., None].expand_as(x))
    assert query.grad is None


def cases() -> dict[str, tuple[object, ...]]:
    query, key, x = inputs()
    slot, ones = torch.tensor([[0, 1, 1, -1, 2] * 2] * 2), torch.ones(2, 10)
    grad = x.clone().requires_grad_()
    merged = (torch.arange(10).clamp(max=7).expand(2, 10), torch.arange(8).expand(2, 8))
    lse = (query * key).sum(-1)
    return {
        "attend": (query, key, query, torch.zeros(2, 11), 1, True),
        "attend_short": (query, key, query, torch.zeros(2, 11)),
        "attention_received": (query, key, None, 0.5, 1, True),
        "best_last": (ones, 4),
        "bipartite_match": (x, x, ones, None, None, ones, None, ones > 2, True),
        "cluster_dpc": (x, 4, 3),
        "coverage_select": (x, 4, ones[:, :6]),
        "dpp_select": (torch.eye(10).repeat(2, 1, 1), 4),
        "keep_slots": (torch.tensor([[1, 4]] * 2), 10),
        "keep_step": (x, torch.tensor([[1, 4]] * 2), ones, slot[:, :9], [ones[:, :9]]),
        "knn_distance": (x, 3),
        "match_pairs": (x, 3, 0, None, 10, ones > 2, 1.0, 3, None, True),
        "max_min_select": (1 - torch.eye(10).repeat(2, 1, 1), 4, ones),
        "merge_compact": (grad, slot, ones.clone().requires_grad_(), 3),
        "merge_slots": (torch.tensor([[1, 4]] * 2), torch.tensor([[0, 0]] * 2), 10),
        "merge_step": (x, *merged, torch.ones(2, 10), slot, ones, [ones]),
        "received_from_lse": (query, key, lse, torch.zeros(2, 11), 1, True),
        "sum_compact": (ones.clone().requires_grad_(), slot, 3),
        # opcheck can't add up an integer output and a differentiable one, so no gradient here.
        "topk_gather": (ones, 4, [x, slot]),
    }


@pytest.mark.parametrize("name", list(cases()))
def test_registration_is_sound(name: str) -> None:
    torch.library.opcheck(getattr(torch.ops.tokenprune, name).default, cases()[name])


def test_attention_in_half_precision_is_laid_out_as_registered() -> None:
    query, key, _ = (each.bfloat16() for each in inputs())
    given = (query, key, query, torch.zeros(2, 11), 1, False)
    torch.library.opcheck(torch.ops.tokenprune.attend.default, given)
    attended, _ = ops.attend(query, key, query)
    assert attended.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("attend", 2 * 2 * 2 * 2 * 11 * 11 * 4), ("attend_short", 2 * 2 * 2 * 2 * 11 * 11 * 4),
        ("received_from_lse", 2 * 2 * 2 * 11 * 11 * 4),
        ("attention_received", 2 * 2 * 2 * 11 * 11 * 4), ("bipartite_match", 2 * 2 * 10 * 10 * 6),
        ("knn_distance", 2 * 2 * 10 * 10 * 6), ("match_pairs", 2 * 2 * 10 * 10 * 6),
        ("merge_compact", 2 * 2 * 10 * 6), ("keep_slots", 0), ("keep_step", 0),
        ("best_last", 0), ("merge_slots", 0), ("merge_step", 2 * 2 * 10 * 6),
        ("sum_compact", 2 * 10), ("topk_gather", 0), ("max_min_select", 2 * 10 * 4),
        ("cluster_dpc", 3 * 2 * 10 * 10 * 6), ("coverage_select", 2 * 2 * 10 * 6 * 4),
        ("dpp_select", 2 * 10 * (4 * 3 + 3 * 4)),
    ],
)  # fmt: skip
def test_flops_are_counted(name: str, count: int) -> None:
    op = getattr(torch.ops.tokenprune, name)
    with FlopCounterMode(display=False) as plain, torch.no_grad():
        op(*cases()[name])
    with ops.count_flops() as counter, torch.inference_mode():
        op(*cases()[name])
    assert counter.total == plain.get_total_flops() == count


def test_an_operation_says_what_it_takes() -> None:
    with pytest.raises(TypeError, match="flops"):
        operation("forgotten")  # type: ignore[call-arg]


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_who_watches_sees_operations_with_and_without_gradients(
    guard: Callable[[], AbstractContextManager[None]],
) -> None:
    x = inputs()[2]
    with guard(), ops.count_flops() as counter:
        pairs = ops.match_pairs(x, 3)
    assert counter.total == 2 * 2 * 5 * 5 * 6
    with guard():
        assert torch.equal(torch.stack(ops.match_pairs(x, 3)), torch.stack(pairs))
    with FakeTensorMode() as mode, guard():
        assert isinstance(ops.match_pairs(mode.from_tensor(x), 3)[0], FakeTensor)


def test_a_counter_of_another_thread_changes_nothing_here() -> None:
    begun, over = threading.Event(), threading.Event()

    def count() -> None:
        with ops.count_flops():
            begun.set()
            over.wait()

    other = threading.Thread(target=count)
    other.start()
    begun.wait()
    with torch.no_grad(), ops.count_flops() as counter:
        over.set()
        other.join()
        ops.match_pairs(inputs()[2], 3)
    assert counter.total == 2 * 2 * 5 * 5 * 6


@pytest.mark.parametrize(("guard", "seen"), [(torch.no_grad, False), (torch.enable_grad, True)])
def test_the_dispatcher_is_left_out_where_nobody_there_asks(
    guard: Callable[[], AbstractContextManager[None]], seen: bool
) -> None:
    with guard(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        ops.match_pairs(inputs()[2], 3)
    names = {event.key for event in profiler.key_averages()}
    assert ("tokenprune::match_pairs" in names) == seen


@pytest.mark.parametrize("known", [True, False])
def test_attention_on_the_cpu_is_counted_once(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not known:
        packet = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        monkeypatch.delitem(flop_formulas.flop_registry, packet, raising=False)
    q, k = torch.randn(2, 3, 7, 4), torch.randn(2, 3, 9, 4)
    for guard in (torch.no_grad, torch.inference_mode):
        with ops.count_flops() as counter, guard():
            scaled_dot_product_attention(q, k, k)
        assert (
            counter.total == 2 * 2 * 3 * 7 * 9 * 8 == ops.attention_flops(q.shape, k.shape, k.shape)
        )


def test_counting_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with ops.count_flops() as counter:
        torch.ones(2, 3) @ torch.ones(3, 4)
    assert counter.total == 48
    assert capsys.readouterr().out == ""
