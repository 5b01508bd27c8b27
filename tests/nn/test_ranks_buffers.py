"""Buffer layers of a network that several ranks share. Run by tests/test_on_ranks.py."""

from typing import Any

import pytest
import torch

from lpgpu import MGRIT, LayerParallel, Serial
from lpgpu.nn import PerLayer
from tests.assertions import assert_close_relative
from tests.nn.networks import BLOCKS, WIDTH
from tests.nn.ranks import COMM, RANK, SIZE, allgather, assert_near, assert_shares, one_and_shared, part_of
from tests.nn.test_buffers import Conditioned
from tests.nn.test_statistics import block as normed
from tests.nn.test_statistics import statistics

pytestmark = pytest.mark.mpi(1, 2, 3, 4)

SIZES, BUFFER = [6, 3, 4, 5][:SIZE], (2, 2)
SOLVERS = {
    "one cycle": MGRIT(levels=2, coarsening=3, iterations=1),
    "Picard": MGRIT(levels=2, coarsening=2, coarse_operator="picard", picard_order=2, iterations=1),
    "C-points": MGRIT(levels=2, coarsening=2, store="c_points", iterations=1),
    "serial": Serial(),
}


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("block", ["dense", "attention", "step with gate and buffer"])
def test_outputs_and_gradients_are_those_of_one_process(solver: Any, block: str, seed: int) -> None:
    build, form, shape = BLOCKS[block]
    one, shared = one_and_shared(SIZES, build, seed=seed, form=form, solver=solver, buffer=BUFFER)
    assert_shares(one, shared, SIZES, shape[1:])
    for whole, mine in zip(one.results, shared.results, strict=True):
        (whole,), (mine,) = whole, mine
        assert whole and mine and mine.sequential_depth == whole.sequential_depth
        all_of_them = [sum(level) for level in zip(*allgather(mine.evaluations), strict=True)]
        assert all_of_them == list(whole.evaluations)


def test_arguments_and_draws(seed: int) -> None:
    """Also where x wants no gradient."""
    one, shared = one_and_shared(SIZES, Conditioned, seed=seed, form="residual", solver=Serial(), buffer=BUFFER)
    x = torch.randn(3, WIDTH, dtype=torch.float64)
    mask = torch.randn(WIDTH, dtype=torch.float64, requires_grad=True)
    scale = torch.randn(sum(SIZES), 1, dtype=torch.float64, requires_grad=True)
    found = []
    for net in (one, shared):
        torch.manual_seed(3)
        y = net(x, mask, scale=PerLayer(scale))
        found.append([y, *torch.autograd.grad(y.square().sum(), [mask, scale, *net.parameters()])])
    for came, expected in zip(found[1][:3], found[0][:3], strict=True):
        assert_close_relative(came, expected)
    for came, expected in zip(found[1][3:], found[0][3:], strict=True):
        assert_near(came, expected[part_of(SIZES)], expected, "gradient")


def test_running_statistics(seed: int) -> None:
    one, many = one_and_shared(SIZES, normed, seed=seed, solver=MGRIT(coarsening=3, iterations=1), buffer=BUFFER)
    x = torch.randn(5, WIDTH, dtype=torch.float64)
    one(x), many(x)
    for mine, whole in zip(statistics(many), statistics(one), strict=True):
        assert_close_relative(mine.double(), whole[part_of(SIZES)].double())


@pytest.mark.skipif(SIZE == 1, reason="of several ranks")
class TestRanks:
    def test_a_buffer_beyond_a_ranks_layers_is_refused_on_all(self) -> None:
        words = "has 3 layers" if RANK == 0 else "rank 0: ValueError: buffer"
        with pytest.raises(ValueError, match=words):
            LayerParallel(COMM, BLOCKS["dense"][0], 3, 1.0, buffer=(3, 0))

    def test_what_fails_in_a_buffer_fails_on_all(self) -> None:
        class Fails(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.w = torch.nn.Parameter(torch.ones(()))

            def forward(self, u: torch.Tensor) -> torch.Tensor:
                if RANK == 0:
                    raise RuntimeError("not today")
                return self.w * u

        with pytest.raises(RuntimeError if RANK == 0 else ValueError, match="not today"):
            LayerParallel(COMM, Fails, 3, 1.0, buffer=(1, 0))(torch.ones(2, 2))
