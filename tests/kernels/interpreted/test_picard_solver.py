"""Networks with Picard coarse operators on the fused kernels, in Triton's interpreter: the generic path's numbers."""

import copy
import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lpgpu import GRU, MGRIT
from lpgpu.kernels import dispatch
from lpgpu.nn.propagators.layers import Layers
from tests.assertions import assert_close_relative
from tests.kernels.interpreted.test_solver import NETWORKS, Kernels, derivatives


def picard(order: int, **options) -> MGRIT:
    return MGRIT(coarse_operator="picard", picard_order=order, **options)


SOLVERS = {
    "order 1": picard(1, levels=2, coarsening=4),
    "order 2": picard(2, levels=2, coarsening=4),
    "order 3": picard(3, levels=2, coarsening=4),
    "three levels, in chunks": picard(1, levels=3, coarsening=2, relaxation=("F", "FCF"), cycle="F", chunk=2),
    "order 2, few": picard(2, levels=2, coarsening=3, relaxation="F", iterations=1, adjoint_iterations=1),
    "c_points": picard(2, levels=2, coarsening=3, store="c_points"),
}

FUSED = {
    "dense": "dense_step",
    "implicit GRU": "implicit_gru",
    "classic GRU": "implicit_gru",
    "convolution": "conv_step",
    "two convolutions": "conv_step",
}
# convolutions take seconds each in the interpreter
PAIRS = [
    *itertools.product(("dense", "implicit GRU"), [each for each in SOLVERS if not each.endswith("few")]),
    ("classic GRU", "order 2"),
    ("convolution", "order 2, few"),
]


@pytest.mark.parametrize(("network", "solver"), PAIRS)
def test_fused_and_generic_agree(network: str, solver: str) -> None:
    """Forward and adjoint; no coarsening divides the number of layers."""
    net, inputs = NETWORKS[network](7 if solver.endswith("few") else 11, SOLVERS[solver])
    x, twin = inputs(1 if "convolution" in network else 3), copy.deepcopy(net)
    dispatch.calls.clear()
    came = derivatives(net, x)
    assert {backend for _, backend in dispatch.calls} == {"fused"}, dispatch.calls
    functions = {name.rpartition(".")[2] for name, _ in dispatch.calls if name.startswith(FUSED[network])}
    assert functions >= {"picard", "adjoint_picard", "picard_sweep"}, functions
    with dispatch.backend("reference"):
        expected = derivatives(twin, x)
    for name in expected:
        assert_close_relative(came[name], expected[name], tolerance=1e-10, what=name)


class Resetting(nn.Module):
    """A GRU of several sequences in one, which no fused step knows of."""

    def __init__(self, solver: MGRIT) -> None:
        super().__init__()
        self.gru = GRU(3, 5, formulation="implicit", solver=solver, dtype=torch.float64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        resets = torch.zeros(x.shape[:2], dtype=torch.bool)
        resets[4, 0] = resets[7, 1] = True
        return self.gru(x, resets=resets)


@pytest.mark.parametrize("options", [{"coarse_operator": "picard"}, {"coarse_operator": "linear"}], ids=str)
def test_resets_are_heeded(options: Any) -> None:
    net, x = Resetting(MGRIT(levels=2, coarsening=4, iterations=1, **options)), torch.randn(11, 2, 3).double()
    twin, came = copy.deepcopy(net), derivatives(net, x)
    with dispatch.backend("reference"):
        expected = derivatives(twin, x)
    for name in expected:
        assert_close_relative(came[name], expected[name], tolerance=1e-10, what=name)


def launches(network: str, steps: int, order: int) -> tuple[Kernels, Kernels, Counter[str]]:
    """What a forward pass launches, and the backward pass after it; and all Triton kernels by name."""
    net, inputs = NETWORKS[network](steps, picard(order, levels=2, coarsening=4))
    x = inputs(2).requires_grad_()
    dispatch.launches.clear()
    with Kernels() as forward:
        y = net(x)
    with Kernels() as backward:
        (y[1] if isinstance(y, tuple) else y).sum().backward()
    return forward, backward, dispatch.launches.copy()


MARCHES = 3, 2  # forward: the guess and two cycles; adjoint: the guess and one


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.filterwarnings("ignore::lpgpu.mgrit.convergence.DivergenceWarning")
class TestLaunches:
    @pytest.mark.parametrize(
        ("network", "order", "per_step"),
        [
            ("dense", 1, (0, 0)),
            ("dense", 3, (3, 3)),
            ("implicit GRU", 1, (0, 1)),
            ("classic GRU", 2, (2, 2)),
            ("convolution", 1, (2, 2)),  # of two convolutions a layer
        ],
    )
    def test_of_each_more_step_of_the_coarsest_grid(self, network: str, order: int, per_step: tuple[int, int]) -> None:
        """One an iteration; of order 1 none, where a march is one launch."""
        few, more, most = (launches(network, steps, order)[2] for steps in (16, 20, 24))
        expected = sum(marches * steps for marches, steps in zip(MARCHES, per_step, strict=True))
        assert (more - few).total() == (most - more).total() == expected

    @pytest.mark.parametrize(("network", "times"), [("dense", 8), ("implicit GRU", 4), ("convolution", 3)])
    def test_fewer_than_the_generic_path(self, network: str, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
        fused = [each.total for each in launches(network, 64, 1)[:2]]
        for kind in Layers.__subclasses__():
            monkeypatch.setattr(kind, "fuses_picard", lambda self, like: False)
        generic = [each.total for each in launches(network, 64, 1)[:2]]
        print(network, fused, generic)
        assert generic[0] > times * fused[0] and generic[1] > times * fused[1]
