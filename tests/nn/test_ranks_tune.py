"""tune on several ranks: the same solver on each, and within the aim. Run by tests/test_on_ranks.py."""

import pytest
import torch
from torch import nn

from lpgpu import MGRIT, LayerParallel, tune, verify
from lpgpu.nn import DenseBlock
from lpgpu.nn.tune import search
from tests.nn.networks import WIDTH
from tests.nn.ranks import COMM, RANK, SIZE, allgather, same_on_all_ranks

pytestmark = [pytest.mark.mpi(1, 2, 3)]

SIZES = [14, 6, 20][:SIZE]


def shared_network():
    layers = LayerParallel(COMM, lambda: DenseBlock(WIDTH), SIZES[RANK], 4.0)
    torch.manual_seed(7)
    net = nn.Sequential(nn.Linear(3, WIDTH), layers, nn.Linear(WIDTH, 2)).double()
    for layer in (net[0], net[2]):
        for theta in layer.parameters():
            theta.data = allgather(theta.data)[0]
    x = torch.randn(6, 3, dtype=torch.float64)
    return net, lambda: net(x).square().mean().backward()


def test_all_ranks_choose_the_same(capsys):
    net, step = shared_network()
    solver = tune(net, step, by="depth", max_tries=8)
    printed = capsys.readouterr().out
    assert same_on_all_ranks(repr(solver))
    assert ("<- chosen" in printed) == (RANK == 0)
    net[1].solver = solver
    assert verify(net, step).gradient <= 1e-2


def test_times_and_costs_are_the_same_everywhere():
    net, step = shared_network()
    found = search(net, step, by="time", max_tries=6)
    assert same_on_all_ranks([(tried.solver, tried.seconds, tried.gradient_error) for tried in found.tried])
    assert same_on_all_ranks(found.solver)
    assert isinstance(net[1].solver, MGRIT)
