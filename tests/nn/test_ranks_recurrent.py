"""Recurrent and LSTM on several ranks under MPI are the networks of one process. Run by tests/test_on_ranks.py."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lpgpu import GRU, LSTM, MGRIT, Recurrent, Serial
from tests.assertions import assert_close_relative
from tests.nn.ranks import COMM, RANK, SIZE, part_of
from tests.nn.test_recurrent import CELLS, B, F, H

pytestmark = pytest.mark.mpi(1, 2, 3, 4, 5)

SIZES = [9, 4, 1, 7, 6][:SIZE]
T = sum(SIZES)
SOLVERS = {
    "inexact": MGRIT(coarsening=3, iterations=1),
    "C-points": MGRIT(levels=2, coarsening=4, store="c_points", iterations=1),
    "serial": Serial(),
}


def everything(net: nn.Module, x: Tensor, part: slice, **options: Any) -> list[Tensor]:
    """This rank's output, the last states, and the gradients of a loss that sees all of the former."""
    torch.manual_seed(17)
    weight = torch.randn(T, B, 2 * H, dtype=torch.float64)
    of_last = torch.randn(100, dtype=torch.float64)
    x = x[part].detach().requires_grad_()
    output, last = net(x, **options)
    loss = (output * weight[part, :, : output.shape[-1]]).sum()
    last_states = torch.cat([each.flatten() for each in tree_leaves(last)])
    loss = loss + (last_states * of_last[: last_states.numel()]).sum()
    dx, *dtheta = torch.autograd.grad(loss, [x, *net.parameters()])
    return [output, last_states, dx, *dtheta]


def compare(make: Any, **options: Any) -> None:
    """Fails unless the shared network computes what one process does."""
    torch.manual_seed(5)
    one = make(None).double()
    many = make(COMM).double()
    many.load_state_dict(one.state_dict())
    x = torch.randn(T, B, F, dtype=torch.float64)
    mine, whole = part_of(SIZES), everything(one, x, slice(0, T), **options)
    came = everything(many, x, mine, **options)
    for i, (each, expected) in enumerate(zip(came, whole, strict=True)):
        assert_close_relative(each, expected[mine] if i in (0, 2) else expected, f"{i}")


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_any_cell(cell: str, solver: Any) -> None:
    compare(lambda comm: Recurrent(CELLS[cell](), comm=comm, solver=solver))


def test_layers_directions_lengths_and_resets() -> None:
    torch.manual_seed(3)
    lengths, resets = torch.randint(1, T + 1, (B,)), torch.rand(T, B) < 0.2
    solver = MGRIT(coarsening=3, iterations=1)
    compare(lambda comm: LSTM(F, H, 2, bidirectional=True, comm=comm, solver=solver), lengths=lengths, resets=resets)


@pytest.mark.parametrize("kind", [GRU, LSTM])
def test_under_autocast(kind: Any, seed: int) -> None:
    """To a rounding of products, as sums of them may differ in order; gradients of the weights are summed in fp32."""
    solver, whole = MGRIT(levels=2, coarsening=3, iterations=1), torch.randn(T, B, F)
    found = []
    for comm, part in ((None, slice(0, T)), (COMM, part_of(SIZES))):
        torch.manual_seed(seed)
        net = kind(F, H, 2, bidirectional=True, comm=comm, solver=solver)
        x = whole[part].requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            output, last = net(x)
        loss = output.float().square().sum() + sum((h.float().sum() for h in tree_leaves(last)), torch.zeros(()))
        found.append([*tree_leaves(last), *torch.autograd.grad(loss, [*net.parameters()])])
        assert output.dtype == (torch.float32 if kind is GRU else torch.bfloat16)
    for came, expected in zip(found[1], found[0], strict=True):
        assert came.dtype == expected.dtype
        assert_close_relative(came, expected, tolerance=2**-5)


@pytest.mark.skipif(SIZE == 1, reason="of several ranks")
def test_autocast_on_some_ranks_only_is_refused() -> None:
    net = GRU(F, H, comm=COMM)
    with torch.autocast("cpu", torch.bfloat16, enabled=RANK == 0), pytest.raises(ValueError, match="autocast is"):
        net(torch.ones(5, B, F))


@pytest.mark.skipif(SIZE == 1, reason="of several ranks")
def test_ranks_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"solver"):
        Recurrent(nn.LSTMCell(F, H), comm=COMM, solver=Serial() if RANK else MGRIT())
