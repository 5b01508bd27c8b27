"""The dense step against plain autograd, in every memory order that the solver hands it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lpgpu.kernels import dense_step
from tests.assertions import assert_close_relative
from tests.kernels.steps import ACTIVATIONS, batch_innermost, contiguous, every_third, poisoned_like

LAYERS, BATCH, WIDTH, DT = 4, 5, 3, 0.3
ORDERS = {
    "contiguous": contiguous,
    "batch innermost": batch_innermost,
    "strided": every_third,
    "strided, batch innermost": lambda t: batch_innermost(every_third(t)),
}

pytestmark = [
    pytest.mark.parametrize("activation", ACTIVATIONS),
    pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"]),
    pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS),
]
Order = Callable[[Tensor], Tensor]


def problem(order: Order, bias: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """u, W, b, λ."""
    u, lam = (order(torch.randn(LAYERS, BATCH, WIDTH, dtype=torch.float64)) for _ in range(2))
    w = every_third(torch.randn(LAYERS, WIDTH, WIDTH, dtype=torch.float64))
    return u, w, torch.randn(LAYERS, WIDTH, dtype=torch.float64) if bias else None, lam


def plain(u: Tensor, w: Tensor, b: Tensor | None, activation: str) -> Tensor:
    z = torch.einsum("kij,kbj->kbi", w, u)
    return u + DT * ACTIVATIONS[activation](z if b is None else z + b[:, None])


def test_advance(activation: str, bias: bool, order: Order) -> None:
    u, w, b, _ = problem(order, bias)
    before, out = u.clone(), poisoned_like(u)
    saved = dense_step.advance(u, w, b, DT, activation, out)
    assert_close_relative(out, plain(u, w, b, activation))
    assert torch.equal(u, before)
    assert_close_relative(saved, dense_step.linearise(u, w, b, activation))


def test_vjp_and_parameter_gradient(activation: str, bias: bool, order: Order) -> None:
    u, w, b, lam = problem(order, bias)
    leaves = [t.detach().clone().requires_grad_() for t in (u, w, b) if t is not None]
    expected = torch.autograd.grad(plain(*leaves, *([] if bias else [None]), activation), leaves, lam)  # pyright: ignore

    saved = dense_step.advance(u, w, b, DT, activation, poisoned_like(u))
    before, out = lam.clone(), poisoned_like(lam)
    dense_step.vjp(lam, saved, w, DT, activation, out)
    assert_close_relative(out, expected[0], "dx")
    dw, db = dense_step.parameter_gradient(lam, saved, u, DT, activation)
    assert_close_relative(dw, expected[1], "dW")
    if bias:
        assert_close_relative(db, expected[2], "db")
    assert torch.equal(lam, before)


def test_diagonal(activation: str, bias: bool, order: Order) -> None:
    u, w, b, _ = problem(order, bias)
    saved = dense_step.linearise(u, w, b, activation)
    out = poisoned_like(u)
    dense_step.diagonal(saved, w, DT, activation, out)
    for k in range(LAYERS):
        for row in range(BATCH):
            jacobian = torch.autograd.functional.jacobian(
                lambda v, k=k: plain(v[None, None], w[k, None], None if b is None else b[k, None], activation)[0, 0],
                u[k, row].contiguous(),
            )
            assert_close_relative(out[k, row], jacobian.diagonal())  # pyright: ignore
