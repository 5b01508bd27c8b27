"""The convolutional step against plain autograd, one and two convolutions."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lpgpu.kernels import conv_step
from lpgpu.kernels.conv_step import Filter
from tests.assertions import assert_close_relative
from tests.kernels.steps import ACTIVATIONS, channels_last, contiguous, every_third, poisoned_like

LAYERS, BATCH, CHANNELS, HEIGHT, WIDTH, DT = 3, 2, 3, 4, 5, 0.3
ORDERS = {"contiguous": contiguous, "channels last": channels_last, "strided": every_third}

pytestmark = [
    pytest.mark.parametrize("activation", ACTIVATIONS),
    pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"]),
    pytest.mark.parametrize("convolutions", [1, 2]),
    pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS),
]
Order = Callable[[Tensor], Tensor]


def problem(order: Order, convolutions: int, bias: bool) -> tuple[Tensor, list[Filter], Tensor]:
    """u, the filters, λ."""
    shape = (LAYERS, BATCH, CHANNELS, HEIGHT, WIDTH)
    u, lam = (order(torch.randn(shape, dtype=torch.float64)) for _ in range(2))
    filters = [
        Filter(
            every_third(torch.randn(LAYERS, CHANNELS, CHANNELS, 3, 3, dtype=torch.float64)),
            torch.randn(LAYERS, CHANNELS, dtype=torch.float64) if bias else None,
        )
        for _ in range(convolutions)
    ]
    return u, filters, lam


def plain(u: Tensor, filters: list[Filter], activation: str) -> Tensor:
    layers = []
    for k in range(len(u)):
        a = u[k]
        for each in filters:
            a = ACTIVATIONS[activation](F.conv2d(a, *each.layer(k), padding=1))
        layers.append(u[k] + DT * a)
    return torch.stack(layers)


def test_advance(activation: str, bias: bool, convolutions: int, order: Order) -> None:
    u, filters, _ = problem(order, convolutions, bias)
    before, out = u.clone(), poisoned_like(u)
    assert not conv_step.advance(u, filters, DT, activation, out)
    assert_close_relative(out, plain(u, filters, activation))
    assert torch.equal(u, before)


def test_what_is_saved_on_the_way_is_what_is_saved_without_advancing(
    activation: str, bias: bool, convolutions: int, order: Order
) -> None:
    u, filters, _ = problem(order, convolutions, bias)
    on_the_way = conv_step.advance(u, filters, DT, activation, poisoned_like(u), save=True)
    for layer, expected in zip(on_the_way, conv_step.linearise(u, filters, activation), strict=True):
        assert len(layer) == convolutions
        assert all(torch.equal(one, other) for one, other in zip(layer, expected, strict=True))


def test_vjp_and_parameter_gradient(activation: str, bias: bool, convolutions: int, order: Order) -> None:
    u, filters, lam = problem(order, convolutions, bias)
    u_leaf = u.detach().clone().requires_grad_()
    leaves = [Filter(*(t.clone().requires_grad_() if t is not None else None for t in each)) for each in filters]
    wanted = [u_leaf, *(t for each in leaves for t in each if t is not None)]
    expected = torch.autograd.grad(plain(u_leaf, leaves, activation), wanted, lam)

    saved = conv_step.linearise(u, filters, activation)
    before, out = lam.clone(), poisoned_like(lam)
    conv_step.vjp(lam, saved, filters, DT, activation, out)
    assert_close_relative(out, expected[0], "dx")
    gradients = conv_step.parameter_gradient(lam, saved, u, filters, DT, activation)
    came = [d for pair in gradients for d in pair[: 1 + bias]]
    for i, (one, other) in enumerate(zip(came, expected[1:], strict=True)):
        assert_close_relative(one, other, f"parameter {i}")
    assert torch.equal(lam, before)
