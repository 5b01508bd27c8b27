"""With enough cycles a LayerParallel network is its serial self: outputs, input gradient, every parameter gradient."""

import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lpgpu import MGRIT, LayerParallel, Serial
from lpgpu.mgrit import AllPoints, solve
from lpgpu.nn import ConvBlock, DenseBlock
from lpgpu.nn.propagators import ForwardPropagator, layers_of
from lpgpu.nn.schemes import Scheme
from tests.assertions import assert_close_relative, assert_equals_serial, derivatives, relative_error, serial_oracle
from tests.nn.networks import BLOCKS, WIDTH, exactly, inputs, network
from tests.settings import exact_solver, seeds, solver_options, steps

# at rounding level nothing may be called divergence
pytestmark = pytest.mark.filterwarnings("error::lpgpu.DivergenceWarning")


@given(
    num_steps=steps,
    options=solver_options(),
    activation=st.sampled_from(["tanh", "relu", "smooth_relu", "silu"]),
    bias=st.booleans(),
    seed=seeds,
)
def test_dense_networks(num_steps: int, options: dict[str, Any], activation: str, bias: bool, seed: int) -> None:
    torch.manual_seed(seed)
    solver = exact_solver(num_steps, options)
    net = network(lambda: DenseBlock(WIDTH, activation, bias=bias), num_steps, solver=solver)
    assert_equals_serial(net, inputs())


@given(
    num_steps=st.integers(1, 40),
    options=solver_options(levels=4, coarsening=(3, 9)),
    block=st.sampled_from([name for name in BLOCKS if name != "dense"]),
    scheme=st.sampled_from(get_args(Scheme)),
    seed=seeds,
)
def test_any_block_form_and_scheme(num_steps: int, options: dict[str, Any], block: str, scheme: str, seed: int) -> None:
    torch.manual_seed(seed)
    build, form, shape = BLOCKS[block]
    solver = exact_solver(num_steps, options)
    assert_equals_serial(network(build, num_steps, solver=solver, scheme=scheme, form=form), inputs(*shape))


@given(
    num_steps=st.integers(1, 24),
    options=solver_options(levels=3, coarsening=(3, 6)),
    convolutions=st.sampled_from([1, 2]),
    bias=st.booleans(),
    seed=seeds,
)
def test_convolutional_networks(
    num_steps: int, options: dict[str, Any], convolutions: int, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    solver = exact_solver(num_steps, options)
    net = network(lambda: ConvBlock(2, convolutions, "tanh", bias=bias), num_steps, solver=solver)
    assert_equals_serial(net, inputs(2, 2, 3, 3))


ONE_LEVEL = {
    "Serial": Serial(),
    "one level, all states": MGRIT(levels=1),
    "one level, C-points": MGRIT(levels=1, store="c_points"),
}


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("solver", ONE_LEVEL.values(), ids=ONE_LEVEL)
def test_one_level_is_serial(block: str, solver: Any) -> None:
    build, form, shape = BLOCKS[block]
    assert_equals_serial(network(build, 7, solver=solver, form=form), inputs(*shape))


@pytest.mark.parametrize("block", BLOCKS)
def test_few_cycles_are_close_and_not_exact(block: str) -> None:
    """What makes the tests above able to fail."""
    build, form, shape = BLOCKS[block]
    net = network(build, 32, solver=MGRIT(iterations=1, adjoint_iterations=1), form=form)
    x, weight = inputs(*shape), inputs(*shape)
    came, expected = derivatives(net, x, weight), serial_oracle(net, x, weight)
    for one, other in zip(
        [came.y, came.dx, *came.dtheta.values()], [expected.y, expected.dx, *expected.dtheta.values()], strict=True
    ):
        assert 1e-12 < relative_error(one, other) < 0.5


@pytest.mark.parametrize("store", ["all", "c_points"])
@pytest.mark.parametrize("num_steps", [32, 35])
def test_the_adjoint_is_linearised_where_the_forward_solve_ended(num_steps: int, store: Any) -> None:
    """An exact adjoint of inexact states: λ by the chain rule, one vector-Jacobian product after the other."""
    solver = MGRIT(iterations=1, adjoint_iterations=num_steps, initial_guess="constant", store=store)
    net = network(num_steps=num_steps, solver=solver)
    x, weight = inputs(), inputs()
    came = derivatives(net, x, weight)

    states = forward_states(net, x)
    lam, dtheta = weight, []
    for step, u in zip(reversed(net.to_sequential()), reversed(states[:-1]), strict=True):
        u = u.clone().requires_grad_()
        lam, *gradients = torch.autograd.grad(step(u), (u, *step.parameters()), lam)
        dtheta.insert(0, gradients)
    assert_close_relative(came.dx, lam, "dx")
    for i, (name, gradient) in enumerate(came.dtheta.items()):
        assert_close_relative(gradient, torch.stack([layer[i] for layer in dtheta]), name)


def forward_states(net: LayerParallel, x: torch.Tensor) -> torch.Tensor:
    """All states that the network's forward solve ends with."""
    layers = layers_of(net.layers, dict(net.layers.named_parameters()), x, net.scheme, net.form, net.dt)
    hierarchy = net.solver.hierarchy(net.num_steps)
    states = AllPoints(hierarchy.grids[0], x.new_empty(net.num_steps + 1, *x.shape))
    states.start.copy_(x)
    solve(ForwardPropagator(layers, len(hierarchy.grids)), hierarchy, states, net.solver)
    return states.u


@pytest.mark.parametrize("block", ["dense", "two linear layers", "step with gate and buffer"])
@pytest.mark.parametrize("coarsening", [(4,), (2, 3), (3, 2, 2)], ids=str)
@pytest.mark.parametrize("store", ["all", "c_points"])
def test_without_cycles_the_coarse_guess_is_the_coarsest_network(
    block: str, coarsening: tuple[int, ...], store: Any
) -> None:
    """Every σth layer with the step σΔt: its output, and its own gradient in x."""
    build, form, shape = BLOCKS[block]
    stride = math.prod(coarsening)
    options = {"coarse_operator": "rediscretised", "levels": len(coarsening) + 1, "coarsening": coarsening}
    solver = MGRIT(**options, iterations=0, adjoint_iterations=0, store=store)
    net = network(build, 3 * stride, solver=solver, form=form)
    coarsest = net.to_sequential()[::stride]
    for step in coarsest:
        step.dt *= stride  # pyright: ignore
    x, weight = inputs(*shape, requires_grad=True), inputs(*shape)
    y, expected = net(x), coarsest(x)
    assert_close_relative(y, expected, "y")
    assert_close_relative(*(torch.autograd.grad(each, x, weight)[0] for each in (y, expected)), "dx")


@pytest.mark.parametrize("store", ["all", "c_points"])
def test_group_norm_of_a_batch_of_one(store: Any) -> None:
    """torch.vmap's GroupNorm refuses a view of every m-th state where the batch is 1."""

    def block() -> nn.Module:
        return nn.Sequential(nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3, padding=1), nn.Tanh())

    options: dict[str, Any] = {"levels": 2, "coarsening": 3, "coarse_operator": "rediscretised", "store": store}
    net = network(block, solver=MGRIT(iterations=6, adjoint_iterations=6, **options))
    assert_equals_serial(net, inputs(1, 4, 3, 3))


def test_activations_in_place_are_a_blocks_own_business() -> None:
    net = network(lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(inplace=True)), solver=exactly())
    assert_equals_serial(net, inputs())


def test_parametrised_blocks() -> None:
    def block() -> nn.Module:
        return nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(WIDTH, WIDTH)), nn.Tanh())

    assert_equals_serial(network(block, solver=exactly()), inputs())


def test_the_block_class_is_no_special_case() -> None:
    """The same parameters through the dense kernels and through torch.func."""

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDTH, WIDTH)

        def forward(self, u: torch.Tensor) -> torch.Tensor:
            return self.linear(u).tanh()

    fused, plain = network(), network(Plain)
    plain.load_state_dict(fused.state_dict())
    x, weight = inputs(), inputs()
    came, expected = derivatives(fused, x, weight), derivatives(plain, x, weight)
    assert_close_relative(came.y, expected.y)
    assert_close_relative(came.dx, expected.dx)
    for name in expected.dtheta:
        assert_close_relative(came.dtheta[name], expected.dtheta[name], name)
