"""verify on several ranks gives, on each of them, what it gives on one process. Run by tests/test_on_ranks.py."""

import pytest
import torch
from torch import Tensor, nn

from lpgpu import GRU, MGRIT, LayerParallel, Verification, verify
from lpgpu.nn import DenseBlock
from tests.nn.networks import WIDTH
from tests.nn.ranks import COMM, RANK, SIZE, same_on_all_ranks

pytestmark = [pytest.mark.mpi(1, 2, 3)]

CRUDE = MGRIT(
    levels=2, coarsening=4, iterations=1, adjoint_iterations=1, relaxation="F", coarse_operator="rediscretised"
)
SIZES = [9, 3, 8][:SIZE]


class Recurrent(nn.Module):
    def __init__(self, comm) -> None:
        super().__init__()
        self.gru = GRU(3, WIDTH, bidirectional=True, comm=comm, solver=CRUDE)
        self.head = nn.Linear(2 * WIDTH, 2)
        self.mine = slice(sum(SIZES[:RANK]), sum(SIZES[: RANK + 1])) if comm else slice(None)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x[self.mine])[1].transpose(0, 1).flatten(1))


def deep(comm) -> nn.Module:
    steps = SIZES[RANK] if comm else sum(SIZES)
    layers = LayerParallel(comm, lambda: DenseBlock(WIDTH), steps, 4.0, solver=CRUDE)
    return nn.Sequential(nn.Linear(3, WIDTH), layers, nn.Linear(WIDTH, 2))


@pytest.mark.parametrize("build", [deep, Recurrent])
def test_same_figures_on_any_number_of_ranks(build):
    reports: list[Verification] = []
    for comm in (None, COMM):
        torch.manual_seed(5)
        net = build(comm).double()
        x = torch.randn(*((6, 3) if build is deep else (sum(SIZES), 6, 3)), dtype=torch.float64)
        reports.append(verify(net, lambda net=net, x=x: net(x).square().mean().backward(), layers=True))
    one, shared = reports
    assert same_on_all_ranks(repr(shared) + repr(shared.solves))
    assert 1e-9 < one.gradient == pytest.approx(shared.gradient)
    assert one.states == pytest.approx(shared.states) and one.output == pytest.approx(shared.output)
    assert (one.depth, one.exact_depth) == (shared.depth, shared.exact_depth)
    assert one.worst == pytest.approx(shared.worst) and one.worst_parameter == shared.worst_parameter
    for alone, together in zip(one.solves, shared.solves, strict=True):
        assert together.layer_states == pytest.approx(alone.layer_states, abs=1e-13)
        assert together.layer_gradients == (
            None if alone.layer_gradients is None else pytest.approx(alone.layer_gradients, abs=1e-13)
        )


@pytest.mark.skipif(SIZE == 1, reason="of several ranks")
def test_a_gradient_that_is_not_finite_is_refused_on_every_rank():
    net, x = deep(COMM), torch.randn(6, 3)

    with pytest.raises(ValueError, match="not finite"):
        verify(net, lambda: (net(x) * torch.nan).sum().backward())
