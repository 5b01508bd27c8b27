"""Gradients averaged while backward runs: the numbers of average_gradients. Run by test_on_ranks.py."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lpgpu import LayerParallel, average_gradients, overlap_gradients
from lpgpu.nn import DenseBlock
from tests.nn.ranks import COMM, RANK, allgather

pytestmark = pytest.mark.mpi(2, 3, 4)
WIDTH = 4


class Network(nn.Module):
    """Half and single precision, layers of one rank, and a part that not every rank uses."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(WIDTH, WIDTH)
        self.layers = LayerParallel(None, lambda: DenseBlock(WIDTH), 6, 1.0)
        self.extra = nn.Linear(WIDTH, WIDTH)
        self.unused = nn.Linear(1, 1)
        self.head = nn.Linear(WIDTH, 2, dtype=torch.bfloat16)

    def forward(self, x: Tensor, extra: bool = False) -> Tensor:
        u = self.layers(self.stem(x))
        return self.head((self.extra(u) if extra else u).bfloat16()).float()


def batch(step: int) -> Tensor:
    """Another one on each rank."""
    return torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(100 * step + RANK))


def pair() -> tuple[Network, Network]:
    torch.manual_seed(7)
    net = Network()
    return net, copy.deepcopy(net)


def assert_same_gradients(came: nn.Module, expected: nn.Module) -> None:
    for (name, theta), other in zip(came.named_parameters(), expected.parameters(), strict=True):
        if theta.grad is None or other.grad is None:
            assert theta.grad is other.grad is None, name
        else:
            assert torch.equal(theta.grad, other.grad), name
            assert theta.grad.dtype == theta.dtype
            assert all(torch.equal(theta.grad, each) for each in allgather(theta.grad)), name


Backward = Callable[[Network, int], None]


def once(net: Network, step: int) -> None:
    net(batch(step)).square().sum().backward()


def some_use_more(net: Network, step: int) -> None:
    """Another order, and other parameters, on rank 1."""
    net(batch(step), extra=RANK == 1).square().sum().backward()


def two_backwards(net: Network, step: int) -> None:
    once(net, step)
    net(batch(step + 50)).square().sum().backward()


def changed_by_hand(net: Network, step: int) -> None:
    """After backward, on one rank."""
    once(net, step)
    if RANK == 1:
        net.stem.weight.grad += net.stem.weight.detach()  # pyright: ignore[reportOperatorIssue]
        net.head.bias.grad = torch.ones_like(net.head.bias)


def nothing_on_one_rank(net: Network, step: int) -> None:
    if RANK != 1:
        once(net, step)


BACKWARDS = (once, some_use_more, two_backwards, changed_by_hand, nothing_on_one_rank)


@pytest.mark.parametrize("bucket_bytes", [1, 200, 10**8])
@pytest.mark.parametrize("backward", BACKWARDS, ids=lambda each: each.__name__)
def test_the_same_numbers(backward: Backward, bucket_bytes: int) -> None:
    net, plain = pair()
    overlapped = overlap_gradients(net, COMM, bucket_bytes=bucket_bytes)
    for step in range(2):
        for each in (net, plain):
            each.zero_grad()
            backward(each, step)
        overlapped.finish()
        average_gradients(plain, COMM, bucket_bytes=bucket_bytes)
        assert_same_gradients(net, plain)


def test_buckets_leave_during_backward() -> None:
    net = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1))
    overlapped = overlap_gradients(net, COMM, bucket_bytes=1)
    started = []
    net[0].register_full_backward_hook(lambda *_: started.append(overlapped.started))
    net(batch(0).requires_grad_()).sum().backward()
    assert started[0] >= 1  # the head's, before the gradients of the stem are there
    assert overlapped.started == 4
    overlapped.finish()
    assert overlapped.started == 0


def test_paused_backwards_start_nothing() -> None:
    net, plain = pair()
    overlapped = overlap_gradients(net, COMM)
    with overlapped.paused():
        once(net, 0)
        assert overlapped.started == 0
    once(net, 1)
    overlapped.finish()
    once(plain, 0)
    once(plain, 1)
    average_gradients(plain, COMM)
    assert_same_gradients(net, plain)


def test_it_can_be_undone() -> None:
    net, plain = pair()
    overlapped = overlap_gradients(net, COMM)
    overlapped.remove()
    for each in (net, plain):
        once(each, 0)
    overlapped.finish()
    assert overlapped.started == 0
    assert torch.equal(net.stem.weight.grad, plain.stem.weight.grad)  # pyright: ignore
    different = allgather(net.stem.weight.grad)
    assert not torch.equal(different[0], different[1])


def test_a_module_that_is_not_trained() -> None:
    with pytest.raises(ValueError, match="no parameter of the module wants a gradient"):
        overlap_gradients(nn.Linear(2, 2).requires_grad_(False), COMM)
