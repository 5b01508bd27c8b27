"""The convolutional step against plain autograd, one and two convolutions."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lpgpu.kernels import conv_step
from lpgpu.kernels.conv_step import Kernel
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


def problem(order: Order, convolutions: int, bias: bool) -> tuple[Tensor, list[Kernel], Tensor]:
    """u, the kernels, λ."""
    shape = (LAYERS, BATCH, CHANNELS, HEIGHT, WIDTH)
    u, lam = (order(torch.randn(shape, dtype=torch.float64)) for _ in range(2))
    kernels = [
        Kernel(
            every_third(torch.randn(LAYERS, CHANNELS, CHANNELS, 3, 3, dtype=torch.float64)),
            torch.randn(LAYERS, CHANNELS, dtype=torch.float64) if bias else None,
        )
        for _ in range(convolutions)
    ]
    return u, kernels, lam


def plain(u: Tensor, kernels: list[Kernel], activation: str) -> Tensor:
    layers = []
    for k in range(len(u)):
        a = u[k]
        for kernel in kernels:
            a = ACTIVATIONS[activation](F.conv2d(a, *kernel.layer(k), padding=1))
        layers.append(u[k] + DT * a)
    return torch.stack(layers)


def test_advance(activation: str, bias: bool, convolutions: int, order: Order) -> None:
    u, kernels, _ = problem(order, convolutions, bias)
    before, out = u.clone(), poisoned_like(u)
    assert not conv_step.advance(u, kernels, DT, activation, out)
    assert_close_relative(out, plain(u, kernels, activation))
    assert torch.equal(u, before)


def test_what_is_kept_on_the_way_is_what_is_kept_without_advancing(
    activation: str, bias: bool, convolutions: int, order: Order
) -> None:
    u, kernels, _ = problem(order, convolutions, bias)
    on_the_way = conv_step.advance(u, kernels, DT, activation, poisoned_like(u), keep=True)
    for layer, expected in zip(on_the_way, conv_step.kept(u, kernels, activation), strict=True):
        assert len(layer) == convolutions
        assert all(torch.equal(one, other) for one, other in zip(layer, expected, strict=True))


def test_vjp_and_parameter_gradient(activation: str, bias: bool, convolutions: int, order: Order) -> None:
    u, kernels, lam = problem(order, convolutions, bias)
    u_leaf = u.detach().clone().requires_grad_()
    leaves = [Kernel(*(t.clone().requires_grad_() if t is not None else None for t in kernel)) for kernel in kernels]
    wanted = [u_leaf, *(t for kernel in leaves for t in kernel if t is not None)]
    expected = torch.autograd.grad(plain(u_leaf, leaves, activation), wanted, lam)

    kept = conv_step.kept(u, kernels, activation)
    before, out = lam.clone(), poisoned_like(lam)
    conv_step.vjp(lam, kept, kernels, DT, activation, out)
    assert_close_relative(out, expected[0], "dx")
    gradients = conv_step.parameter_gradient(lam, kept, u, kernels, DT, activation)
    came = [d for pair in gradients for d in pair[: 1 + bias]]
    for i, (one, other) in enumerate(zip(came, expected[1:], strict=True)):
        assert_close_relative(one, other, f"parameter {i}")
    assert torch.equal(lam, before)
