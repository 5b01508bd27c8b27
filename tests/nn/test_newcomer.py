"""What the first users stumbled over."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lpgpu import GRU, MGRIT, DivergenceWarning, LayerParallel, Serial
from lpgpu.nn import DenseBlock
from lpgpu.nn.memory import Allocations
from tests.assertions import relative_error
from tests.nn.networks import WIDTH, inputs, network


def test_a_tolerance_does_not_depend_on_the_scale_of_the_loss() -> None:
    """The adjoint is linear; in fp32 the squares of a small one's residuals would vanish and pass for converged."""
    solver = MGRIT(adjoint_iterations=30, adjoint_tolerance=1e-5)
    net, x = LayerParallel(None, lambda: DenseBlock(8), 128, 2.0, solver=solver), torch.randn(4, 8)

    def gradient(scale: float) -> Tensor:
        net.zero_grad()
        (scale * net(x)).sum().backward()
        return torch.cat([parameter.grad.flatten() for parameter in net.parameters()]) / scale

    assert relative_error(gradient(1e-22), gradient(1.0)) < 1e-4


@pytest.mark.parametrize(
    "module",
    [lambda: LayerParallel(None, lambda: DenseBlock(16), 128, 1.0), lambda: GRU(16, 16)],
    ids=["layers", "gru"],
)
def test_nothing_is_kept_for_a_gradient_that_cannot_come(module: Callable[[], nn.Module]) -> None:
    net, x = module(), torch.randn(128, 64, 16)

    def peak(grad: bool) -> int:
        with torch.set_grad_enabled(grad), Allocations() as allocations:
            net(x if isinstance(net, GRU) else x[0])
        return allocations.peak

    assert peak(False) < 0.85 * peak(True)


class Wrong(nn.Module):
    """A right-hand side that returns something else than a state."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, u: Tensor) -> Any:
        return self.make(u)


@pytest.mark.parametrize("make", [lambda u: u[..., :1], lambda u: u.sum()], ids=["broadcast", "scalar"])
def test_a_right_hand_side_that_would_broadcast_is_refused(make: Callable[[Tensor], Any]) -> None:
    with pytest.raises(ValueError, match="shape"):
        LayerParallel(None, lambda: Wrong(make), 8, 1.0)(torch.randn(2, 3))


def test_a_right_hand_side_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match="NoneType; expected a tensor"):
        LayerParallel(None, lambda: Wrong(lambda u: None), 8, 1.0)(torch.randn(2, 3))


def test_values_of_a_layer_that_are_no_tensors_must_agree() -> None:
    """They cannot be stacked; layer 0's would silently serve all."""
    scales = iter(range(8))

    def block() -> nn.Module:
        module = nn.Linear(3, 3)
        module.scale = next(scales)
        return module

    with pytest.raises(ValueError, match="layer 1 unlike layer 0"):
        LayerParallel(None, block, 8, 1.0)


def test_the_printed_gru_tells_what_it_computes() -> None:
    assert "formulation='implicit'" in repr(GRU(3, 4)) and "MGRIT(" in repr(GRU(3, 4))


@pytest.mark.parametrize("solver", [Serial(), MGRIT(coarsening=4)], ids=["serial", "MGRIT"])
def test_a_block_that_works_in_place_is_refused(solver: Any) -> None:
    net = network(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(WIDTH, WIDTH)), 16, solver=solver)
    with pytest.raises(RuntimeError, match="the block changes its input in place"):
        net(inputs())


def test_a_solve_that_hardly_converges_says_so() -> None:
    net = LayerParallel(None, lambda: DenseBlock(WIDTH), 64, 300.0, solver=MGRIT(coarsening=4)).double()
    with pytest.warns(DivergenceWarning, match="the forward solve (hardly converges|diverges)"):
        net(inputs())
