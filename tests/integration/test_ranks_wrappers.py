"""LayerParallel and GRU inside DistributedDataParallel and FSDP2, with layers on one rank and on several.

Run by test_on_ranks.py, on process groups of torch.distributed: these wrappers know no MPI.
"""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from lpgpu import GRU, LayerParallel, ProcessGrid, overlap_gradients
from lpgpu.comm.launcher import launched_by
from lpgpu.nn import DenseBlock
from tests.assertions import assert_close_relative
from tests.nn.ranks import COMM, RANK, SIZE

pytestmark = [
    pytest.mark.mpi(2, 4),
    pytest.mark.skipif(launched_by() == "MPI", reason="DDP and FSDP need process groups of torch.distributed"),
]
WIDTH, LAYERS, STEPS = 4, 8, 2
LAYER_RANKS = SIZE // 2  # and two data ranks


class OwnBlock(nn.Module):
    """One that takes the general path."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, u: Tensor) -> Tensor:
        return torch.tanh(self.linear(u))


BLOCKS = {"dense": lambda: DenseBlock(WIDTH), "own": OwnBlock}


def network(block: Callable[[], nn.Module], comm=None) -> nn.Sequential:
    torch.manual_seed(3)
    deep = LayerParallel(comm, block, LAYERS // (1 if comm is None else dist.get_world_size(comm)), 1.0)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), deep, nn.Linear(WIDTH, 2)).double()


def batch(step: int, data_rank: int) -> Tensor:
    generator = torch.Generator().manual_seed(10 * step + data_rank)
    return torch.randn(3, WIDTH, generator=generator, dtype=torch.float64)


def train(net: nn.Module, data_ranks: list[int], finish: Callable[[], None] = lambda: None) -> None:
    """Some steps, with the mean gradient over these data ranks."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(STEPS):
        optimizer.zero_grad()
        for rank in data_ranks:
            (net(batch(step, rank)).square().sum() / len(data_ranks)).backward()
        finish()
        optimizer.step()


def assert_trained_alike(net: nn.Module, block: Callable[[], nn.Module], layer_rank: int) -> None:
    """As one process that sees all examples, of which this rank has its layers."""
    expected = network(block)
    train(expected, [0, 1])
    for (name, theta), other in zip(net.named_parameters(), expected.parameters(), strict=True):
        came = theta.full_tensor() if isinstance(theta, DTensor) else theta
        if len(came) < len(other):
            other = other[layer_rank * len(came) : (layer_rank + 1) * len(came)]
        assert_close_relative(came.detach(), other.detach(), name)


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_data_parallel(block: Callable[[], nn.Module]) -> None:
    grid = ProcessGrid(COMM, layer_ranks=LAYER_RANKS)
    net = network(block, grid.layer_comm)
    train(DistributedDataParallel(net, process_group=grid.data_comm), [grid.data_rank])
    assert_trained_alike(net, block, grid.layer_rank)


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_overlapped_gradients_do_the_same(block: Callable[[], nn.Module]) -> None:
    grid = ProcessGrid(COMM, layer_ranks=LAYER_RANKS)
    net = network(block, grid.layer_comm)
    train(net, [grid.data_rank], overlap_gradients(net, grid.data_comm, bucket_bytes=100).finish)
    assert_trained_alike(net, block, grid.layer_rank)


@pytest.mark.parametrize("what", ["the layers' module", "the network", "both"])
@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_fully_sharded(block: Callable[[], nn.Module], what: str) -> None:
    """Over the data ranks of a device mesh, whose other dimension shares the layers."""
    mesh = init_device_mesh("cpu", (2, LAYER_RANKS), mesh_dim_names=("data", "layers"))
    net = network(block, mesh["layers"].get_group())
    if what != "the network":
        fully_shard(net[1], mesh=mesh["data"])
    if what != "the layers' module":
        fully_shard(net, mesh=mesh["data"])
    finish = (lambda: _average_outside(net, mesh)) if what == "the layers' module" else (lambda: None)
    train(net, [mesh["data"].get_local_rank()], finish)
    assert all(isinstance(theta, DTensor) for theta in net[1].parameters())
    assert_trained_alike(net, block, mesh["layers"].get_local_rank())


def _average_outside(net: nn.Module, mesh) -> None:
    for theta in net.parameters():
        if not isinstance(theta, DTensor) and theta.grad is not None:
            dist.all_reduce(theta.grad, dist.ReduceOp.SUM, group=mesh["data"].get_group())
            theta.grad /= 2


def test_a_recurrent_network_fully_sharded() -> None:
    torch.manual_seed(3)
    gru = GRU(WIDTH, 3).double()
    alone = copy.deepcopy(gru)
    fully_shard(gru, mesh=init_device_mesh("cpu", (SIZE,)))
    pieces = [batch(0, rank)[:, None] for rank in range(SIZE)]
    gru(pieces[RANK])[0].square().sum().backward()
    for piece in pieces:
        (alone(piece)[0].square().sum() / SIZE).backward()
    for (name, theta), other in zip(gru.named_parameters(), alone.parameters(), strict=True):
        assert isinstance(theta.grad, DTensor) and other.grad is not None
        assert_close_relative(theta.grad.full_tensor(), other.grad, name)


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_sharding_the_stack_alone_says_what_to_do(block: Callable[[], nn.Module]) -> None:
    """Nobody calls `deep.layers`, so that nothing would gather its weights."""
    net = network(block)
    fully_shard(net[1].layers, mesh=init_device_mesh("cpu", (SIZE,)))
    with pytest.raises(ValueError, match=r"sharded \(DTensor\).*fully_shard.*not .*\.layers"):
        net(batch(0, 0))
