"""Whole networks on the fused kernels, in Triton's interpreter: the reference's numbers, and few launches."""

import copy
import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lpgpu import GRU, MGRIT, LayerParallel, Serial
from lpgpu.kernels import dispatch
from lpgpu.nn import ConvBlock, DenseBlock
from tests.assertions import assert_close_relative

Build = Callable[[int, Any], tuple[nn.Module, Callable[[int], Tensor]]]


def gru(formulation: Any, width: int = 5) -> Build:
    def build(steps: int, solver: Any) -> tuple[nn.Module, Callable[[int], Tensor]]:
        net = GRU(3, width, formulation=formulation, solver=solver, dtype=torch.float64)
        return net, lambda batch: torch.randn(steps, batch, 3, dtype=torch.float64)

    return build


def layers(block: Callable[[], nn.Module], *shape: int) -> Build:
    def build(steps: int, solver: Any) -> tuple[nn.Module, Callable[[int], Tensor]]:
        net = LayerParallel(None, block, steps, 1.0, solver=solver).double()
        return net, lambda batch: torch.randn(batch, *shape, dtype=torch.float64)

    return build


NETWORKS: dict[str, Build] = {
    "implicit GRU": gru("implicit"),
    "classic GRU": gru("classic"),
    "dense": layers(lambda: DenseBlock(5), 5),
    "convolution": layers(lambda: ConvBlock(2), 2, 3, 4),
    "two convolutions": layers(lambda: ConvBlock(2, activation="tanh", convolutions=2), 2, 3, 4),
}

# "auto" chooses by whether kernels are fused; here fused and not fused are compared
mgrit = functools.partial(MGRIT, coarse_operator="rediscretised")
SOLVERS = {
    "serial": Serial(),
    "two levels": mgrit(levels=2, coarsening=3),
    "three levels": mgrit(levels=3, coarsening=2, relaxation=("F", "FCF"), cycle="F", initial_guess="constant"),
    "c_points": mgrit(levels=2, coarsening=3, store="c_points"),
}


def derivatives(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What the network computes, and the gradients of its input and of every parameter; the loss sees all it can."""
    x = x.clone().requires_grad_()
    y = net(x)
    y = torch.cat([each.flatten() for each in y]) if isinstance(y, tuple) else y
    torch.manual_seed(7)
    (y * torch.randn_like(y)).sum().backward()
    gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return {"output": y.detach(), "x": x.grad, **gradients}


# convolutions take seconds each in the interpreter
PAIRS = [
    *itertools.product(("implicit GRU", "classic GRU", "dense"), SOLVERS),
    ("convolution", "two levels"),
    ("two convolutions", "serial"),
    ("two convolutions", "c_points"),
]


@pytest.mark.parametrize(("network", "solver"), PAIRS)
def test_fused_and_reference_agree(network: str, solver: str) -> None:
    net, inputs = NETWORKS[network](11, SOLVERS[solver])  # no multiple of either coarsening
    x, twin = inputs(1 if "convolution" in network else 3), copy.deepcopy(net)
    dispatch.calls.clear()
    came = derivatives(net, x)
    ran = {backend for _, backend in dispatch.calls}
    assert ran == {"fused"}, dispatch.calls
    if "GRU" in network and solver == "c_points":
        assert ("implicit_gru.adjoint_sweep_recomputed", "fused") in dispatch.calls
    with dispatch.backend("reference"):
        expected = derivatives(twin, x)
    for name in expected:
        assert_close_relative(came[name], expected[name], tolerance=1e-10, what=name)


class Kernels(TorchDispatchMode):
    """Counts what would be kernel launches on a GPU: Triton's, and those of PyTorch operators that touch data."""

    FREE = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias"})

    def __enter__(self) -> "Kernels":
        self.of_torch = 0
        self._before = sum(dispatch.launches.values())
        return super().__enter__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.of_torch += not func.is_view and func.overloadpacket.__name__ not in self.FREE
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        return self.of_torch + sum(dispatch.launches.values()) - self._before


def launches(network: str, steps: int, batch: int, solver: Any) -> tuple[int, int]:
    """Those of a forward pass, and of the backward pass after it."""
    net, inputs = NETWORKS[network](steps, solver)
    x = inputs(batch).requires_grad_()
    with Kernels() as forward:
        y = net(x)
    y = y[1] if isinstance(y, tuple) else y
    with Kernels() as backward:
        y.sum().backward()
    return forward.total, backward.total


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.filterwarnings("ignore::lpgpu.mgrit.convergence.DivergenceWarning")
class TestLaunches:
    """Their number depends on levels, m and the coarsest steps: neither on the depth nor on the batch.

    (Where m does not divide the depth there are a few more, for the short interval: again a fixed number.)
    """

    @pytest.mark.parametrize("network", ["implicit GRU", "dense"])
    @pytest.mark.parametrize("levels", [2, 3])
    def test_sweeps_that_stay_on_chip_take_one_each(self, network: str, levels: int) -> None:
        counts = {
            launches(network, steps, batch, MGRIT(levels=levels, coarsening=coarsening, delta="none"))
            for steps, batch, coarsening in ((18, 1, 3), (36, 3, 3), (36, 1, 3), (32, 2, 4))
        }
        print(counts)
        assert len(counts) == 1

    @pytest.mark.parametrize("network", ["convolution", "two convolutions"])
    def test_convolutions_take_a_few_a_step(self, network: str) -> None:
        solver = MGRIT(levels=2, coarsening=3)
        shallow, wider, deep, deeper = (
            launches(network, steps, batch, solver) for steps, batch in ((12, 1), (12, 3), (18, 1), (24, 1))
        )
        print(shallow, deep, deeper)
        assert shallow == wider
        for direction in range(2):  # one more for every step of the coarsest grid
            assert deep[direction] - shallow[direction] == deeper[direction] - deep[direction] > 0

    @pytest.mark.parametrize("network", ["implicit GRU", "dense"])
    def test_a_serial_solve_on_chip_is_one_launch(self, network: str) -> None:
        net, inputs = NETWORKS[network](9, Serial())
        dispatch.launches.clear()
        with torch.no_grad():
            net(inputs(2))
        assert sum(dispatch.launches.values()) == 1, dispatch.launches
