"""How tests compare: one tolerance per dtype, relative to the size of what is expected, and the serial oracle."""

from collections.abc import Iterable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from lpgpu import LayerParallel

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""‖came − expected‖ / ‖expected‖ that a chain of a few dozen roundings stays below."""


def relative_error(came: Tensor, expected: Tensor) -> float:
    """‖came − expected‖ / ‖expected‖, in fp64; 0 where both vanish."""
    difference = torch.linalg.vector_norm(came.detach().double() - expected.detach().double())
    scale = torch.linalg.vector_norm(expected.detach().double())
    return 0.0 if difference == 0 else float(difference / scale)


def assert_close_relative(
    came: Tensor, expected: Tensor, what: str = "tensor", *, tolerance: float | None = None
) -> None:
    """Fails unless `came` has the shape of `expected` and is near it, as its own dtype's tolerance demands."""
    tolerance = TOLERANCE[came.dtype] if tolerance is None else tolerance
    if came.shape != expected.shape:
        pytest.fail(f"{what} has shape {tuple(came.shape)}; expected {tuple(expected.shape)}")
    error = relative_error(came, expected)
    if not error <= tolerance:
        pytest.fail(f"{what} is off by {error:.3e} relative; allowed are {tolerance:.0e}")


class Derivatives(NamedTuple):
    """y = net(x), and the gradients of ⟨weight, y⟩ in x and in every stacked parameter by its name."""

    y: Tensor
    dx: Tensor
    dtheta: dict[str, Tensor]


def derivatives(net: LayerParallel, x: Tensor, weight: Tensor) -> Derivatives:
    """By the network's own solver; leaves no gradients behind."""
    names, parameters = zip(*net.layers.named_parameters(), strict=True) if list(net.parameters()) else ((), ())
    x = x.detach().clone().requires_grad_()
    y = net(x)
    dx, *dtheta = torch.autograd.grad(y, (x, *parameters), weight)
    return Derivatives(y.detach(), dx, dict(zip(names, dtheta, strict=True)))


def serial_oracle(net: LayerParallel, x: Tensor, weight: Tensor) -> Derivatives:
    """By plain autograd through `net.to_sequential()`, layer after layer."""
    sequential = net.to_sequential()
    x = x.detach().clone().requires_grad_()
    y = sequential(x)
    y.backward(weight)
    per_layer = [dict(step.block.named_parameters()) for step in sequential]  # pyright: ignore
    dtheta = {name: torch.stack([layer[name].grad for layer in per_layer]) for name in per_layer[0]}  # pyright: ignore
    return Derivatives(y.detach(), x.grad, dtheta)  # pyright: ignore


def assert_same_derivatives(came: Derivatives, expected: Derivatives, *, tolerance: float | None = None) -> None:
    """Fails unless output, input gradient and every parameter gradient are near."""
    assert_close_relative(came.y, expected.y, "y", tolerance=tolerance)
    assert_close_relative(came.dx, expected.dx, "dx", tolerance=tolerance)
    assert came.dtheta.keys() == expected.dtheta.keys()
    for name, gradient in expected.dtheta.items():
        assert_close_relative(came.dtheta[name], gradient, f"gradient of {name}", tolerance=tolerance)


def assert_equals_serial(net: LayerParallel, x: Tensor, *, tolerance: float | None = None) -> None:
    """Fails unless the network computes, for a random loss, what serial autograd computes."""
    weight = torch.randn_like(x)
    assert_same_derivatives(derivatives(net, x, weight), serial_oracle(net, x, weight), tolerance=tolerance)


def assert_mentions(error: BaseException | str, words: Iterable[str]) -> None:
    """Fails unless every word is in the message."""
    missing = [word for word in words if word not in str(error)]
    if missing:
        pytest.fail(f"the message {str(error)!r} does not mention {missing}")
