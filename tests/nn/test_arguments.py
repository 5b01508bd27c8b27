"""What a call has besides x reaches every block, and gradients come back: `net(x, *args, **kwargs)`."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lpgpu import MGRIT, LayerParallel, Serial
from lpgpu.nn import DenseBlock, PerLayer
from tests.assertions import assert_close_relative, assert_mentions, relative_error
from tests.nn.networks import WIDTH, MaskedAttention, exactly, inputs, network

SOLVERS = {
    "all states": exactly(),
    "C-points": exactly(store="c_points"),
    "F-cycles on four levels": MGRIT(levels=4, coarsening=2, cycle="F", iterations=5, adjoint_iterations=5),
    "serial": Serial(),
}


class Conditioned(nn.Module):
    """form="rhs": tanh(W u + c z), with a choice that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, u: Tensor, pair: tuple[Tensor, Any], *, scale: float = 1.0, z: Tensor | None = None) -> Tensor:
        c, name = pair
        y = self.linear(u) * scale + (c if name == "plus" else -c)
        return torch.tanh(y if z is None else y * z)


class Timed(nn.Module):
    """A block whose forward begins with t."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, t: Tensor, *rest: Any) -> Tensor:
        *dt, u = rest
        f = torch.sin(3 * t) * torch.tanh(self.linear(u))
        return u + dt[0] * f if dt else f


class ResidualBlock(nn.Module):
    """form="residual": returns u + f(u)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, u: Tensor) -> Tensor:
        return u + 0.1 * torch.tanh(self.linear(u))


def compare(net: LayerParallel, x: Tensor, leaves: list[Tensor], args: tuple, kwargs: dict, weight: Tensor) -> None:
    """Fails unless output and the gradients in x, leaves and parameters are those of the layers one by one."""
    steps = net.to_sequential()
    u = x
    for k, step in enumerate(steps):
        u = step(u, *_of_layer(args, k), **_of_layer(kwargs, k))
    expected = torch.autograd.grad(u, [x, *leaves], weight, retain_graph=True)
    y = net(x, *args, **kwargs)
    assert_close_relative(y, u, "y")
    came = torch.autograd.grad(y, [x, *leaves], weight, retain_graph=True)
    for i, (one, other) in enumerate(zip(came, expected, strict=True)):
        assert_close_relative(one, other, f"gradient {i}")
    for name, parameter in net.layers.named_parameters():
        of_layers = torch.autograd.grad(
            u, [step.block.get_parameter(name) for step in steps], weight, retain_graph=True
        )
        (gradient,) = torch.autograd.grad(y, parameter, weight, retain_graph=True)
        assert_close_relative(gradient, torch.stack(of_layers), name)


def _of_layer(tree: Any, layer: int) -> Any:
    return torch.utils._pytree.tree_map(lambda leaf: leaf.values[layer] if isinstance(leaf, PerLayer) else leaf, tree)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("scheme", ["euler", "rk4"])
def test_tensors_for_all_layers_get_the_sum_of_their_gradients(solver: Any, scheme: Any) -> None:
    net = network(Conditioned, solver=solver, scheme=scheme)
    x, c, z = inputs(requires_grad=True), inputs(WIDTH, requires_grad=True), inputs(3, 1, requires_grad=True)
    compare(net, x, [c, z], ((c, "minus"),), {"scale": 0.5, "z": z}, inputs())


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_a_tensor_with_a_part_for_each_layer(solver: Any) -> None:
    net = network(Conditioned, solver=solver)
    x, c, z = inputs(requires_grad=True), inputs(18, WIDTH, requires_grad=True), inputs(WIDTH, requires_grad=True)
    compare(net, x, [c, z], ((PerLayer(c), "plus"),), {"z": z}, inputs())


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_masks_of_attention(solver: Any) -> None:
    """A boolean mask has no gradient; a bias that is added has one."""
    net = network(MaskedAttention, solver=solver)
    x, bias = inputs(2, 3, WIDTH, requires_grad=True), inputs(3, 3, requires_grad=True)
    causal = torch.ones(3, 3, dtype=torch.bool).tril()
    compare(net, x, [bias], (causal,), {"bias": bias}, inputs(2, 3, WIDTH))


@pytest.mark.parametrize("form", ["rhs", "step"])
@pytest.mark.parametrize("scheme", ["euler", "midpoint", "rk4"])
def test_a_block_that_asks_for_t_gets_the_time(form: Any, scheme: Any) -> None:
    net = network(Timed, form=form, scheme=scheme, Tf=2.0, solver=exactly())
    x = inputs(requires_grad=True)
    compare(net, x, [], (), {}, inputs())


def test_time_runs_from_0_to_tf() -> None:
    """u′ = t: u(Tf) = Tf²/2, by the midpoint rule exactly."""

    class Ramp(nn.Module):
        def forward(self, t: Tensor, u: Tensor) -> Tensor:
            return t * torch.ones_like(u)

    x = inputs()
    assert_close_relative(network(Ramp, scheme="midpoint", Tf=3.0, solver=exactly())(x), x + 4.5)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_blocks_that_return_the_next_state(solver: Any) -> None:
    net = network(ResidualBlock, form="residual", Tf=18.0, solver=solver)
    compare(net, inputs(requires_grad=True), [], (), {}, inputs())
    x, u = inputs(), None
    u = x
    for step in net.to_sequential():
        u = step.block(u)
    assert_close_relative(net(x), u)


def test_a_coarse_step_of_a_residual_block_spans_its_layers() -> None:
    """Rediscretised, so that the guess is already near; were it the block itself, m-fold too short, it would not be."""
    solver = MGRIT(levels=2, iterations=0, coarse_operator="rediscretised")
    net = network(ResidualBlock, 64, form="residual", Tf=64.0, solver=solver)
    net.layers.linear.weight.data[:] = net.layers.linear.weight.data[0].clone()  # pyright: ignore
    net.layers.linear.bias.data[:] = net.layers.linear.bias.data[0].clone()  # pyright: ignore
    x = inputs()
    with torch.no_grad():
        assert relative_error(net(x), net.to_sequential()(x)) < 0.4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_arguments_that_autocast_rounded_are_taken_back(dtype: torch.dtype) -> None:
    net = network(Conditioned, dtype=torch.float32)
    c = torch.randn(WIDTH, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(torch.randn(3, WIDTH), (c, "plus"), z=PerLayer(torch.randn(18, WIDTH, dtype=dtype)))
    assert y.dtype == torch.float32


def test_two_calls_with_other_arguments_before_one_backward() -> None:
    net = network(Conditioned, solver=exactly())
    sequential, x = net.to_sequential(), inputs()
    c, d = inputs(WIDTH, requires_grad=True), inputs(WIDTH, requires_grad=True)

    def loss(f: Callable[..., Tensor]) -> Tensor:
        return (f(x, (c, "plus")) * f(x, (d, "minus"))).sum()

    came, expected = (torch.autograd.grad(loss(f), (c, d)) for f in (net, sequential))
    for one, other in zip(came, expected, strict=True):
        assert_close_relative(one, other)


def test_an_argument_changed_in_place_before_backward_is_noticed() -> None:
    net, c = network(Conditioned), inputs(WIDTH, requires_grad=True)
    y = net(inputs(), (c, "plus"))
    with torch.no_grad():
        c.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_second_derivatives_in_arguments() -> None:
    net = network(Conditioned, 4, solver=Serial())
    x, c, z = inputs(requires_grad=True), inputs(WIDTH, requires_grad=True), inputs(4, 1, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, c, z: net(x, (c, "plus"), z=PerLayer(z)), (x, c, z))


class TestBadInput:
    def test_a_part_for_another_number_of_layers(self) -> None:
        with pytest.raises(ValueError) as caught:
            network(Conditioned)(inputs(), (PerLayer(inputs(17, WIDTH)), "plus"))
        assert_mentions(caught.value, ["(17, 4)", "[num_steps, ...]", "(18, ...)"])

    def test_no_tensor_per_layer(self) -> None:
        with pytest.raises(TypeError, match=r"list; expected a tensor \[num_steps, ...\]"):
            PerLayer([1, 2])  # pyright: ignore

    def test_another_device(self) -> None:
        with pytest.raises(ValueError, match=r"an argument is on meta, x is on cpu"):
            network(Conditioned)(inputs(), (torch.zeros(4, device="meta"), "plus"))

    def test_a_block_that_takes_none(self) -> None:
        with pytest.raises(TypeError, match="positional argument"):
            network(lambda: DenseBlock(WIDTH))(inputs(), inputs())
