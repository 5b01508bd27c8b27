"""The fused dense step against the reference in fp64, on a device and in a dtype: shared by interpreter and GPU."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lpgpu.kernels import dense_step
from lpgpu.kernels.dense_step import reference
from lpgpu.kernels.sweep import Sweep, Terms
from tests.kernels.fused.inputs import (
    Launched,
    assert_near,
    doubled,
    doubled_terms,
    guarded,
    innermost,
    like,
    random,
    spread,
)

DT = 0.3
ORDERS = {
    "contiguous": lambda t: t,
    "batch innermost": innermost(1),
    "spread": spread,
    "spread, batch innermost": lambda t: innermost(1)(spread(t)),
}


@dataclass(frozen=True)
class Case:
    """What is computed, on what."""

    batch: int
    width: int
    activation: str = "tanh"
    bias: bool = True
    order: str = "contiguous"
    dtype: torch.dtype = torch.float64
    device: str = "cpu"

    def states(self, layers: int) -> Tensor:
        values = random(layers, self.batch, self.width, dtype=self.dtype, device=self.device)
        return ORDERS[self.order](values)

    def weights(self, layers: int) -> tuple[Tensor, Tensor | None]:
        scale = self.width**-0.5
        w = random(layers, self.width, self.width, dtype=self.dtype, device=self.device, scale=scale)
        b = random(layers, self.width, dtype=self.dtype, device=self.device)
        return spread(w, 3), spread(b) if self.bias else None

    def saved(self, layers: int) -> Tensor:
        u, (w, b) = self.states(layers), self.weights(layers)
        return like(u, reference.linearise(u, w, b, self.activation))


def check_sweep(
    case: Case, sweep: Sweep, *, adjoint: bool, rhs: bool, delta: bool, products: bool, launches: int | None = None
) -> None:
    (u, check_ends), (w, b) = guarded(case.states, sweep.num_layers + 1), case.weights(sweep.num_layers)
    for _, _, targets in sweep.marched():
        u[targets] = torch.nan
    saved = case.saved(sweep.num_layers)
    g = case.states(sweep.num_layers + 1) if rhs else None
    corrections = [case.states(sweep.num_layers) if delta else None for _ in range(2)]
    shape = (sweep.num_intervals + 1, *u.shape[1:])
    factors = like(u[: shape[0]], u.new_full(shape, torch.nan)) if products else None
    terms = Terms(g, *corrections, factors)
    expected_u, expected_terms = doubled(u), doubled_terms(terms)
    with Launched() as launched:
        if adjoint:
            dense_step.adjoint_sweep(u, saved, w, DT, case.activation, sweep, terms)
        else:
            dense_step.sweep(u, w, b, DT, case.activation, sweep, terms)
    if launches is not None:
        assert sum(launched.names.values()) == launches
    assert launched.names
    w64, b64, saved64 = doubled(w), doubled(b), doubled(saved)
    if adjoint:
        reference.adjoint_sweep(expected_u, saved64, w64, DT, case.activation, sweep, expected_terms)
    else:
        reference.sweep(expected_u, w64, b64, DT, case.activation, sweep, expected_terms)
    assert_near(u, expected_u, "states")
    check_ends()
    assert_near(factors, expected_terms.products, "products")
    if case.order == "spread":
        assert u._base is None or u._base[0::2].isnan().all()


def check_step(case: Case, layers: int) -> None:
    """advance with its diagonal, saved, vjp, diagonal and the parameters' gradient, one launch each."""
    u, lam, (w, b) = case.states(layers), case.states(layers), case.weights(layers)
    out, diagonal = (like(u, torch.full_like(u, torch.nan)) for _ in range(2))
    u64, lam64, w64, b64 = doubled(u), doubled(lam), doubled(w), doubled(b)
    expected, expected_diagonal = torch.empty_like(u64), torch.empty_like(u64)
    saved64 = reference.advance(u64, w64, b64, DT, case.activation, expected)
    reference.diagonal(saved64, w64, DT, case.activation, expected_diagonal)

    with Launched() as launched:
        assert dense_step.advance(u, w, b, DT, case.activation, out, diagonal) is None
    assert launched.names == {"dense_step_kernel": 1}
    assert_near(out, expected, "advance")
    assert_near(diagonal, expected_diagonal, "diagonal on the way")
    assert torch.equal(doubled(u), u64)

    out.fill_(torch.nan)
    dense_step.advance(u, w, b, DT, case.activation, out)
    assert_near(out, expected, "advance alone")

    with Launched() as launched:
        saved = dense_step.linearise(u, w, b, case.activation)
    assert launched.names == {"dense_step_kernel": 1}
    assert_near(saved, saved64, "saved")

    diagonal.fill_(torch.nan)
    with Launched() as launched:
        dense_step.diagonal(saved, w, DT, case.activation, diagonal)
    assert launched.names == {"dense_step_kernel": 1}
    assert_near(diagonal, expected_diagonal, "diagonal")

    out.fill_(torch.nan)
    saved64 = doubled(saved)
    reference.vjp(lam64, saved64, w64, DT, case.activation, expected)
    with Launched() as launched:
        dense_step.vjp(lam, saved, w, DT, case.activation, out)
    assert launched.names == {"dense_step_kernel": 1}
    assert_near(out, expected, "vjp")
    assert torch.equal(doubled(lam), lam64)

    gradients = dense_step.parameter_gradient(lam, saved, u, DT, case.activation)
    oracle = reference.parameter_gradient(lam64, saved64, u64, DT, case.activation)
    for name, one, other in zip(("dW", "db"), gradients, oracle, strict=True):
        assert_near(one, other, name)


def leaves(case: Case, layers: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """u, w, b of the functional form, requiring grad."""
    u, (w, b) = case.states(layers), case.weights(layers)
    return u.requires_grad_(), w.detach().requires_grad_(), None if b is None else b.detach().requires_grad_()
