import pytest
import torch

from benchmarks import loops
from tokenprune import ops
from tokenprune.ops import cluster_dpc
from tokenprune.ops.cluster_dpc.reference import distances


@pytest.mark.parametrize("ties", [False, True])
def test_clusters_are_those_of_the_loop(ties: bool) -> None:
    torch.manual_seed(0)
    for _ in range(100):
        tokens, neighbours = int(torch.randint(1, 30, ())), int(torch.randint(1, 9, ()))
        count = int(torch.randint(1, tokens + 1, ()))
        x = torch.randn(2, tokens, 4)
        x = x.round() if ties else x
        centre, label = cluster_dpc(x, count, neighbours=neighbours)
        want = [loops.cluster_dpc(one, count, neighbours) for one in x]
        assert list(zip(centre.tolist(), label.tolist(), strict=True)) == want


def test_equal_points_are_told_apart_by_index() -> None:
    centre, label = cluster_dpc(torch.zeros(1, 5, 2), 3, neighbours=7)
    assert centre.tolist() == [[0, 1, 2]]
    assert label.tolist() == [[0, 1, 2, 0, 0]]


def test_densities_underflow_and_their_order_does_not() -> None:
    far = torch.tensor([[[1000.0], [1.0], [0.0], [1001.0]]])
    assert cluster_dpc(far, 2, neighbours=2)[1].tolist() == [[0, 1, 1, 0]]


def test_one_cluster_holds_all_and_as_many_as_tokens_hold_one_each() -> None:
    x = torch.randn(2, 9, 4)
    assert cluster_dpc(x, 1, neighbours=3)[1].tolist() == [[0] * 9] * 2
    for each in cluster_dpc(x, 9, neighbours=3):
        assert each.tolist() == [list(range(9))] * 2


def test_clear_groups_are_found() -> None:
    torch.manual_seed(0)
    group = torch.arange(4).repeat(8)
    x = 9 * torch.eye(4)[group] + 0.1 * torch.randn(3, 32, 4)
    centre, label = cluster_dpc(x, 4, neighbours=5)
    for b in range(3):
        assert torch.equal(group[centre[b]][label[b]], group)


def test_distances_are_right_however_close_the_points() -> None:
    torch.manual_seed(0)
    x = torch.randn(300, 40) + 50
    for i, step in enumerate([0.0, 1e-7, 1e-5, 1e-3, 0.1]):
        x[200 + i] = x[i] * (1 + step)
    every = torch.stack([(x.double() - one).square().sum(dim=1).sqrt() for one in x.double()])
    found = distances(x)
    torch.testing.assert_close(found, every.float(), rtol=1e-6, atol=0)
    assert torch.equal(found[200], found[0])
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_measured_in_float32(dtype: torch.dtype) -> None:
    x = torch.randn(2, 30, 8).to(dtype)
    for got, want in zip(
        cluster_dpc(x, 7, neighbours=4), cluster_dpc(x.float(), 7, neighbours=4), strict=True
    ):
        assert torch.equal(got, want)


def test_a_batch_gives_what_its_samples_give_and_no_gradient() -> None:
    x = torch.randn(4, 40, 8, requires_grad=True)
    centre, label = cluster_dpc(x, 7, neighbours=4)
    assert not centre.requires_grad
    assert not label.requires_grad
    for b in range(4):
        alone = cluster_dpc(x[b : b + 1], 7, neighbours=4)
        assert torch.equal(alone[0][0], centre[b])
        assert torch.equal(alone[1][0], label[b])


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_it_is_plain_torch_everywhere_and_says_so(backend: ops.Backend) -> None:
    with ops.use_backend(backend):
        assert ops.choose("cluster_dpc", torch.ones(1)).reason.startswith("no kernel")
        assert cluster_dpc(torch.zeros(1, 2, 2), 1, neighbours=1)[0].tolist() == [[0]]


def test_what_does_not_fit_is_refused() -> None:
    x = torch.rand(1, 4, 2)
    for count in (0, 5):
        with pytest.raises(ValueError, match=rf"count must be in 1\.\.4, not {count}"):
            cluster_dpc(x, count, neighbours=2)
    with pytest.raises(ValueError, match="neighbours"):
        cluster_dpc(x, 2, neighbours=0)
    with pytest.raises(ValueError, match=r"x must be \[B, N, D\]"):
        cluster_dpc(x[0], 2, neighbours=2)
