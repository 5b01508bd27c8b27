"""The ODE steps as torch sees them, on a CPU: sweeps against autograd through all layers, the differentiable functions,
and what is refused.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lpgpu.kernels import conv_step, dense_step
from lpgpu.kernels.conv_step import Filter, Saved
from lpgpu.kernels.conv_step import operators as conv_operators
from lpgpu.kernels.dense_step import operators as dense_operators
from lpgpu.kernels.sweep import Sweep, Terms
from tests.assertions import assert_close_relative
from tests.kernels.steps import opcheck

DT, LAYERS = 0.3, 4
WHOLE, WHOLE_BACK = Sweep(LAYERS, 0, LAYERS, LAYERS), Sweep(LAYERS, LAYERS - 1, LAYERS, LAYERS, reverse=True)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def dense_parameters() -> tuple[Tensor, Tensor]:
    return random(LAYERS, 3, 3), random(LAYERS, 3)


def conv_parameters() -> list[Filter]:
    return [Filter(random(LAYERS, 2, 2, 3, 3) / 4, random(LAYERS, 2)) for _ in range(2)]


class TestDenseSweep:
    def test_of_all_layers_is_serial_propagation_and_back(self) -> None:
        (w, b), u = dense_parameters(), random(LAYERS + 1, 5, 3)
        v = u[0].clone().requires_grad_()
        states = [v]
        for k in range(LAYERS):
            states.append(states[-1] + DT * torch.tanh(states[-1] @ w[k].T + b[k]))
        dense_step.sweep(u, w, b, DT, "tanh", WHOLE)
        assert_close_relative(u, torch.stack(states))

        lam = random(LAYERS + 1, 5, 3)
        (expected,) = torch.autograd.grad(states[-1], v, lam[-1])
        saved = dense_step.linearise(u[:-1], w, b, "tanh")
        dense_step.adjoint_sweep(lam, saved, w, DT, "tanh", WHOLE_BACK)
        assert_close_relative(lam[0], expected)

    def test_products_are_of_the_diagonals(self) -> None:
        (w, b), u, products = dense_parameters(), random(LAYERS + 1, 5, 3), random(1, 5, 3)
        dense_step.sweep(u, w, b, DT, "tanh", WHOLE, Terms(products=products))
        diagonals = torch.empty_like(u[:-1])
        dense_step.advance(u[:-1], w, b, DT, "tanh", torch.empty_like(u[:-1]), diagonal=diagonals)
        assert_close_relative(products[0], diagonals.prod(0))


def test_conv_sweep_of_all_layers_is_serial_propagation_and_back() -> None:
    filters, u = conv_parameters(), random(LAYERS + 1, 2, 2, 4, 3)
    v = u[0].clone().requires_grad_()
    states = [v]
    for k in range(LAYERS):
        a = states[-1]
        for each in filters:
            a = torch.tanh(torch.conv2d(a, *each.layer(k), padding=1))
        states.append(states[-1] + DT * a)
    conv_step.sweep(u, filters, DT, "tanh", WHOLE)
    assert_close_relative(u, torch.stack(states))

    lam = random(*u.shape)
    (expected,) = torch.autograd.grad(states[-1], v, lam[-1])
    saved = conv_step.linearise(u[:-1], filters, "tanh")
    conv_step.adjoint_sweep(lam, saved, filters, DT, "tanh", WHOLE_BACK)
    assert_close_relative(lam[0], expected)


def dense_function(u: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return dense_step.dense_ode_step(u, w, b, DT, "silu")


def conv_function(u: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return conv_step.conv_ode_step(u, [Filter(w1, b1), Filter(w2, b2)], DT, "silu")


def dense_leaves() -> list[Tensor]:
    return [t.requires_grad_() for t in (random(LAYERS, 2, 3), *dense_parameters())]


def conv_leaves() -> list[Tensor]:
    return [t.requires_grad_() for t in (random(LAYERS, 1, 2, 3, 3), *(t for k in conv_parameters() for t in k))]  # pyright: ignore


FUNCTIONS = pytest.mark.parametrize(
    "function, leaves", [(dense_function, dense_leaves), (conv_function, conv_leaves)], ids=["dense", "conv"]
)
Function, Leaves = Callable[..., Tensor], Callable[[], list[Tensor]]


@FUNCTIONS
class TestFunction:
    def test_gradients(self, function: Function, leaves: Leaves) -> None:
        assert torch.autograd.gradcheck(function, leaves(), fast_mode=True)

    def test_compiles_whole(self, function: Function, leaves: Leaves) -> None:
        given = leaves()
        expected = torch.autograd.grad(function(*given).square().sum(), given)
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        came = torch.autograd.grad(compiled(*given).square().sum(), given)
        for one, other in zip(came, expected, strict=True):
            assert_close_relative(one, other)

    @pytest.mark.parametrize("functional", [lambda y: y.square().sum(), lambda y: y.sum()], ids=["square", "sum"])
    def test_says_that_it_is_once_differentiable(
        self, function: Function, leaves: Leaves, functional: Callable[[Tensor], Tensor]
    ) -> None:
        """Whatever the incoming gradient, a constant one too, and by whichever input."""
        given = leaves()
        for i in range(len(given)):
            (first,) = torch.autograd.grad(functional(function(*given)), given[i], create_graph=True)
            with pytest.raises(RuntimeError, match=r"_ode_step can be differentiated once only"):
                torch.autograd.grad(first.sum(), given, allow_unused=True)

    def test_refuses_an_unknown_activation(self, function: Function, leaves: Leaves) -> None:
        u, *parameters = leaves()
        with pytest.raises(ValueError, match="expected one of identity"):
            if function is dense_function:
                dense_step.dense_ode_step(u, *parameters, DT, "gelu")
            else:
                conv_step.conv_ode_step(u, [Filter(*parameters[:2])], DT, "gelu")


def test_sweeps_compile_whole() -> None:
    (w, b), u, products = dense_parameters(), random(LAYERS + 1, 5, 3), random(1, 5, 3)
    others = u.clone(), products.clone()
    compiled = torch.compile(dense_step.sweep, fullgraph=True, backend="aot_eager")
    compiled(u, w, b, DT, "tanh", WHOLE, Terms(products=products))
    dense_step.sweep(others[0], w, b, DT, "tanh", WHOLE, Terms(products=others[1]))
    assert torch.equal(u, others[0]) and torch.equal(products, others[1])


def test_operators_pass_opcheck() -> None:
    (w, b), u, filters = dense_parameters(), random(LAYERS + 1, 5, 3), conv_parameters()
    sweep, options = Sweep(LAYERS, 0, 2, 1), (DT, "tanh")
    opcheck(dense_operators.sweep, u, w, b, *options, sweep, Terms(u.clone(), products=random(2, 5, 3)))
    saved = dense_step.linearise(u[:-1], w, b, "tanh")
    opcheck(dense_operators.adjoint_sweep, u, saved, w, *options, sweep, Terms())
    torch.library.opcheck(dense_operators.dense_ode_step, (*dense_leaves(), *options))
    images = random(LAYERS + 1, 2, 2, 4, 3)
    opcheck(conv_operators.sweep, images, filters, *options, sweep, Terms())
    saved = conv_step.linearise(images[:-1], filters, "tanh")
    opcheck(conv_operators.adjoint_sweep, images, saved, filters, *options, sweep, Terms())
    torch.library.opcheck(conv_operators.conv_ode_step, (*conv_leaves(), *options))
    torch.library.opcheck(conv_operators.conv_ode_step, (*conv_leaves()[:3], None, None, *options))


class TestRefusals:
    def test_wrong_shapes_and_dtypes(self) -> None:
        (w, b), u, short = dense_parameters(), random(LAYERS + 1, 5, 3), random(LAYERS, 5, 3)
        with pytest.raises(ValueError, match=r"w has shape \(4, 3, 3\); expected \(4, 2, 2\)"):
            dense_step.sweep(u[..., :2], w, b, DT, "tanh", WHOLE)
        with pytest.raises(ValueError, match=r"b is torch.float32 on cpu; expected torch.float64 on cpu"):
            dense_step.sweep(u, w, b.float(), DT, "tanh", WHOLE)
        with pytest.raises(ValueError, match=r"u has shape \(4, 5, 3\); expected \(5, 5, 3\)"):
            dense_step.sweep(short, w, b, DT, "tanh", WHOLE)
        with pytest.raises(ValueError, match=r"saved has shape \(5, 5, 3\); expected \(4, 5, 3\)"):
            dense_step.adjoint_sweep(u, u, w, DT, "tanh", WHOLE_BACK)
        with pytest.raises(ValueError, match=r"products has shape \(1, 5, 2\); expected \(1, 5, 3\)"):
            dense_step.sweep(u, w, b, DT, "tanh", WHOLE, Terms(products=random(1, 5, 2)))
        with pytest.raises(ValueError, match="delta and anchors come together"):
            dense_step.sweep(u, w, b, DT, "tanh", WHOLE, Terms(delta=short))
        with pytest.raises(ValueError, match="expected a floating-point dtype"):
            dense_step.sweep(u.long(), w, b, DT, "tanh", WHOLE)

    def test_filters_that_do_not_go_together(self) -> None:
        filters, u = conv_parameters(), random(LAYERS, 2, 2, 4, 3)
        with pytest.raises(ValueError, match="there are no filters"):
            conv_step.advance(u, [], DT, "tanh", u.clone())
        with pytest.raises(ValueError, match=r"w has shape .*; expected \(4, 2, 2, 3, 3\)"):
            conv_step.advance(u, [Filter(random(LAYERS, 3, 2, 3, 3), None)], DT, "tanh", u.clone())
        with pytest.raises(ValueError, match=r"\[layers, images, channels, rows, columns\]"):
            conv_step.advance(u[0], filters, DT, "tanh", u[0].clone())
        with pytest.raises(ValueError, match="saved is of 0 convolutions × 0 layers; expected 2 × 4"):
            conv_step.vjp(u, Saved(), filters, DT, "tanh", u.clone())
        with pytest.raises(ValueError, match="3 convolutions; expected one or two"):
            conv_step.conv_ode_step(u, [*filters, filters[0]], DT, "tanh")


def test_what_is_saved_is_a_sequence_over_layers() -> None:
    saved = conv_step.linearise(random(LAYERS, 2, 2, 4, 3), conv_parameters(), "tanh")
    assert (len(saved), len(saved[1:3]), len(Saved())) == (LAYERS, 2, 0)
    for stacked, of_convolution in zip(saved[1:3].stacked(), saved.stacked(), strict=True):
        assert torch.equal(stacked, of_convolution[1:3])
