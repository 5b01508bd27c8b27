"""Training on ranks: gradients averaged and clipped, checkpoints resumed on other ranks. Run by test_on_ranks.py."""

import copy

import pytest
import torch
from torch import Tensor, nn

import lpgpu
from lpgpu import (
    GRU,
    LayerParallel,
    ProcessGrid,
    average_gradients,
    clip_grad_norm_,
    full_optimizer_state_dict,
    full_state_dict,
    load_full_optimizer_state_dict,
    load_full_state_dict,
)
from lpgpu.comm.choice import size_and_rank, split
from lpgpu.nn import DenseBlock
from tests.assertions import assert_close_relative
from tests.nn.ranks import COMM, RANK, SIZE

pytestmark = pytest.mark.mpi(2, 3, 4)
WIDTH, LAYERS = 3, 12


def network(comm, *, layers: int = LAYERS) -> nn.Sequential:
    """A stem, layers in as equal blocks as can be, and a head."""
    size, rank = size_and_rank(comm)
    share, more = divmod(layers, size)
    torch.manual_seed(3)
    deep = LayerParallel(comm, lambda: DenseBlock(WIDTH), share + (rank < more), 1.0)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), deep, nn.Linear(WIDTH, 1)).double()


def full_gradients(net: nn.Module) -> dict[str, Tensor]:
    """Gradients of the whole network, by the names of its state."""
    for theta in net.parameters():
        theta.data, theta.grad = theta.grad, None  # pyright: ignore
    return full_state_dict(net)


def test_layer_and_data_parallel_gradients_are_those_of_the_whole_batch() -> None:
    layer_ranks = 2 if SIZE == 4 else 1
    grid = ProcessGrid(COMM, layer_ranks=layer_ranks)
    net, one = network(grid.layer_comm), network(None)
    torch.manual_seed(4)
    batch = torch.randn(grid.data_ranks, 5, WIDTH, dtype=torch.float64)
    net(batch[grid.data_rank]).square().mean().backward()
    average_gradients(net, grid.data_comm, bucket_bytes=100)
    one(batch.flatten(0, 1)).square().mean().backward()
    expected, came = full_gradients(one), full_gradients(net)
    for name, value in expected.items():
        assert_close_relative(came[name], value, name)


def test_a_parameter_without_gradient_on_some_ranks_counts_as_zero() -> None:
    net = nn.ParameterList([nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, dtype=torch.bfloat16))])
    unused = nn.Parameter(torch.ones(1))
    net.append(unused)
    if RANK == 1:
        net[0].grad = torch.full((3,), 6.0)
    net[1].grad = torch.full((2,), 256.0 + RANK % 2, dtype=torch.bfloat16)
    average_gradients(net, COMM)
    assert torch.equal(net[0].grad, torch.full((3,), 6.0 / SIZE))  # pyright: ignore
    assert unused.grad is None
    assert net[1].grad.dtype == torch.bfloat16  # pyright: ignore


@pytest.mark.parametrize("max_norm", [1e-3, 1e3])
def test_clipping_knows_the_whole_network(max_norm: float) -> None:
    nets = {"many": network(COMM), "one": network(None)}
    torch.manual_seed(5)
    x = torch.randn(4, WIDTH, dtype=torch.float64)
    norms, gradients = {}, {}
    for name, net in nets.items():
        net(x).square().sum().backward()
        norms[name] = clip_grad_norm_(net, max_norm)
    expected = network(None)
    expected(x).square().sum().backward()
    norm = torch.nn.utils.clip_grad_norm_(expected.parameters(), max_norm)
    gradients = {name: full_gradients(net) for name, net in nets.items()}
    for name in nets:
        assert_close_relative(norms[name], norm.double(), tolerance=1e-10)
        for key, value in full_gradients(expected).items() if name == "one" else gradients["one"].items():
            assert_close_relative(gradients[name][key], value, key, tolerance=1e-6)


def test_replicated_weights_count_once() -> None:
    torch.manual_seed(0)
    gru = GRU(2, 3, comm=COMM)
    output, _ = gru(torch.randn(5, 1, 2))
    output.sum().backward()
    norm = torch.cat([weight.grad.flatten() for weight in gru.parameters()]).norm()  # pyright: ignore
    assert_close_relative(clip_grad_norm_(gru, 1e9), norm.double(), tolerance=1e-6)


@pytest.mark.parametrize("bad", [0, -1, float("nan")])
def test_a_norm_is_positive(bad: float) -> None:
    with pytest.raises(ValueError, match="max_norm is"):
        lpgpu.clip_grad_norm_(nn.Linear(1, 1), bad)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(4, WIDTH, dtype=torch.float64, generator=generator)
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()


def adam(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=0.05)


def test_a_checkpoint_of_some_ranks_resumes_on_others() -> None:
    """On all ranks, on one fewer and on one alone: the same training goes on."""
    net = network(COMM)
    optimizer = adam(net)
    train(net, optimizer, range(3))
    # a copy, as when it is saved: like PyTorch's, a state shares memory with what is not distributed
    state, of_optimizer = copy.deepcopy((full_state_dict(net), full_optimizer_state_dict(net, optimizer)))
    train(net, optimizer, range(3, 6))
    expected = full_state_dict(net)

    fewer = split(COMM, 0 if RANK < SIZE - 1 else 1, RANK)
    for comm in (fewer, None):
        resumed = network(comm)
        with torch.no_grad():
            for theta in resumed.parameters():
                theta.zero_()
        again = adam(resumed)
        load_full_state_dict(resumed, state)
        load_full_optimizer_state_dict(resumed, again, copy.deepcopy(of_optimizer))
        train(resumed, again, range(3, 6))
        came = full_state_dict(resumed)
        for name, value in expected.items():
            assert_close_relative(came[name], value, name, tolerance=1e-10)
