"""Blocks in bf16 under states in fp32: by torch.autocast around the call, or by the network's own block_dtype."""

from contextlib import nullcontext
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from lpgpu import MGRIT, LayerParallel, Serial
from lpgpu.nn import DenseBlock, PerLayer
from lpgpu.nn.transformer import TransformerBlock
from tests.assertions import assert_close_relative, assert_mentions, relative_error
from tests.nn.networks import WIDTH, exactly, inputs, mlp, network
from tests.nn.test_statistics import block as normed

BF16 = torch.bfloat16
EPSILON = 2.0**-8
N = 16
SOLVERS = {
    "serial": Serial(),
    "all states": MGRIT(levels=2, coarsening=4, iterations=2, adjoint_iterations=2),
    "C-points": MGRIT(levels=2, coarsening=4, iterations=2, adjoint_iterations=2, store="c_points"),
}


class Seen(nn.Module):
    """f(u) = tanh(W u + b), noting dtypes: of the state, of the weight, and of the product."""

    dtypes: ClassVar[set[tuple[torch.dtype, ...]]] = set()

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, u: Tensor) -> Tensor:
        y = u @ self.linear.weight.T
        Seen.dtypes.add((u.dtype, self.linear.weight.dtype, y.dtype))
        return torch.tanh(y + self.linear.bias)


def autocast() -> Any:
    return torch.autocast("cpu", BF16)


def gradients(net: nn.Module, x: Tensor, context: Any = None) -> list[Tensor]:
    """Output, and gradients of its squares."""
    with context or nullcontext():
        y = net(x)
    return [y, *torch.autograd.grad(y.float().square().sum(), [x, *net.parameters()])]


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("by", ["autocast", "block_dtype"])
def test_products_are_bf16_and_all_else_is_fp32(solver: Any, by: str) -> None:
    options: dict[str, Any] = {"block_dtype": BF16} if by == "block_dtype" else {}
    net = network(Seen, N, dtype=torch.float32, solver=solver, **options)
    x = inputs(dtype=torch.float32, requires_grad=True)
    Seen.dtypes.clear()
    came = gradients(net, x, autocast() if by == "autocast" else None)
    assert Seen.dtypes == {(torch.float32, torch.float32, BF16)}
    assert {each.dtype for each in came} == {torch.float32}
    net.block_dtype = None
    for low, exact in zip(came, gradients(net, x), strict=True):
        assert 0 < relative_error(low, exact) < 4 * EPSILON


def test_without_either_nothing_is_bf16() -> None:
    Seen.dtypes.clear()
    gradients(network(Seen, N, dtype=torch.float32), inputs(dtype=torch.float32, requires_grad=True))
    assert Seen.dtypes == {(torch.float32, torch.float32, torch.float32)}


def test_blocks_of_a_transformer_are_as_near_as_pytorchs_own_autocast() -> None:
    """form="residual": the error by bf16 is that of the plain network under autocast, to a factor."""

    def block() -> nn.Module:
        return TransformerBlock(8, 2, layers=N)

    solver = MGRIT(levels=2, coarsening=4, iterations=2, adjoint_iterations=2, coarse_operator="picard")
    net = network(block, N, form="residual", Tf=float(N), dtype=torch.float32, solver=solver)
    sequential, x = net.to_sequential(), inputs(2, 5, 8, dtype=torch.float32, requires_grad=True)
    exact = gradients(sequential, x)[:2]
    of_pytorch, came = gradients(sequential, x, autocast())[:2], gradients(net, x, autocast())[:2]
    for ours, theirs, right in zip(came, of_pytorch, exact, strict=True):
        assert 0 < relative_error(ours, right) < 3 * relative_error(theirs, right)


def test_rounded_are_increments_not_states() -> None:
    """Over 20 draws, relative: 3.5e-5 off the layers one by one after three cycles, these 1.8e-4 off fp32."""
    net = network(Seen, 64, dtype=torch.float32, solver=MGRIT(levels=2, coarsening=4, iterations=3), block_dtype=BF16)
    x = inputs(dtype=torch.float32)
    came, net.solver = net(x), Serial()
    one_by_one, net.block_dtype = net(x), None
    assert relative_error(came, one_by_one) < EPSILON / 32
    assert 0 < relative_error(one_by_one, net(x)) < EPSILON / 8


def test_blocks_with_kernels_take_these_under_autocast_and_bf16_by_block_dtype() -> None:
    net, x = network(num_steps=N, dtype=torch.float32), inputs(dtype=torch.float32, requires_grad=True)
    exact = gradients(net, x)
    for came, expected in zip(gradients(net, x, autocast()), exact, strict=True):
        assert torch.equal(came, expected)
    net.block_dtype = BF16
    assert 0 < relative_error(gradients(net, x)[0], exact[0]) < EPSILON


@pytest.mark.parametrize("kernels", [True, False])
def test_second_derivatives_and_backward_inside_autocast(kernels: bool) -> None:
    """A backward inside autocast is that outside; of a block with kernels in fp32 both."""
    block = (lambda: DenseBlock(WIDTH)) if kernels else mlp
    net = network(block, 4, dtype=torch.float32, solver=Serial())
    x = inputs(dtype=torch.float32, requires_grad=True)
    found = []
    for backward_in in (nullcontext(), autocast()):
        with autocast():
            y = net(x)
        with backward_in:
            (first,) = torch.autograd.grad(y.square().sum(), x, retain_graph=True)
            (with_graph,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            found.append(first)
        assert_close_relative(with_graph, first)
    assert torch.equal(*found)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_statistics_draws_arguments_and_buffers(solver: Any) -> None:
    """BatchNorm in training, a frozen draw, tensors for each layer, layers walked one by one."""

    class Everything(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.drop = normed(), nn.Dropout(0.5)

        def forward(self, u: Tensor, scale: Tensor) -> Tensor:
            return scale * self.drop(self.inner(u))

    net = network(Everything, N, dtype=torch.float32, solver=solver, buffer=(2, 1))
    x, scale = inputs(8, WIDTH, dtype=torch.float32, requires_grad=True), torch.rand(N, 1, requires_grad=True)
    found, statistics = [], []
    for context in (autocast(), nullcontext()):
        torch.manual_seed(7)
        with context:
            y = net(x, PerLayer(scale))
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, scale])])
        statistics.append(net.layers.get_buffer("inner.1.running_mean").clone())
        net.layers.get_buffer("inner.1.running_mean").zero_()
    for low, exact in zip(*found, strict=True):
        assert low.dtype == torch.float32 and 0 < relative_error(low, exact) < 16 * EPSILON
    assert 0 < relative_error(*statistics) < 4 * EPSILON


def test_states_of_several_tensors() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDTH, WIDTH)

        def forward(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"q": state["p"], "p": -self.linear(state["q"])}

    net = LayerParallel(None, Pair, N, 1.0, block_dtype=BF16)
    state = {"q": torch.randn(3, WIDTH), "p": torch.randn(3, WIDTH)}
    low, net.block_dtype = net(state), None
    for name, exact in net(state).items():
        assert low[name].dtype == torch.float32 and 0 < relative_error(low[name], exact) < EPSILON


def test_bad_input() -> None:
    with pytest.raises(ValueError) as caught:
        network(block_dtype=torch.float64)
    assert_mentions(caught.value, ["torch.float64", "torch.bfloat16"])
    with pytest.raises(ValueError) as caught:
        network(block_dtype=BF16, solver=exactly())(inputs())
    assert_mentions(caught.value, ["x is torch.float64", "float32"])


@pytest.mark.parametrize("dtype", [torch.float32, "bfloat16"])
def test_bad_input_between_calls(dtype: Any) -> None:
    net = network(dtype=torch.float32)
    net.block_dtype = dtype
    with pytest.raises(ValueError) as caught:
        net(inputs(dtype=torch.float32))
    assert_mentions(caught.value, [repr(dtype), "torch.bfloat16"])
