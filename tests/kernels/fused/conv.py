"""The fused convolutional step against the reference in fp64, on a device and in a dtype: interpreter and GPU."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lpgpu.kernels import conv_step
from lpgpu.kernels.conv_step import Filter, Saved, reference
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
    "channels last": innermost(2),
    "spread": spread,
    "spread, channels last": lambda t: innermost(2)(spread(t)),
}


@dataclass(frozen=True)
class Case:
    """What is computed, on what."""

    shape: tuple[int, int, int, int]  # images, channels, rows, columns
    convolutions: int = 1
    activation: str = "tanh"
    bias: bool = True
    order: str = "channels last"
    packed: bool = False
    dtype: torch.dtype = torch.float64
    device: str = "cpu"

    def states(self, layers: int) -> Tensor:
        return ORDERS[self.order](random(layers, *self.shape, dtype=self.dtype, device=self.device))

    def filters(self, layers: int) -> list[Filter]:
        channels = self.shape[1]
        made = []
        for _ in range(self.convolutions):
            scale = (9 * channels) ** -0.5
            w = random(layers, channels, channels, 3, 3, dtype=self.dtype, device=self.device, scale=scale)
            b = random(layers, channels, dtype=self.dtype, device=self.device)
            # as `conv_step.packed` lays them out on a GPU
            w = w.permute(0, 3, 4, 2, 1).contiguous().permute(0, 4, 3, 1, 2) if self.packed else spread(w)
            made.append(Filter(w, spread(b) if self.bias else None))
        return made

    def saved(self, filters: list[Filter]) -> Saved:
        u = self.states(len(filters[0].w))
        return Saved([like(u, each) for each in reference.linearise(u, filters, self.activation).stacked()])


def doubled_filters(filters: list[Filter]) -> list[Filter]:
    return [Filter(doubled(w), doubled(b)) for w, b in filters]  # pyright: ignore[reportArgumentType]


def doubled_saved(saved: Saved) -> Saved:
    return Saved([doubled(each) for each in saved.stacked()])  # pyright: ignore[reportArgumentType]


def check_sweep(case: Case, sweep: Sweep, *, adjoint: bool, rhs: bool, delta: bool) -> None:
    """One launch per step and convolution."""
    (u, check_ends), filters = guarded(case.states, sweep.num_layers + 1), case.filters(sweep.num_layers)
    for _, _, targets in sweep.marched():
        u[targets] = torch.nan
    saved = case.saved(filters)
    g = case.states(sweep.num_layers + 1) if rhs else None
    corrections = [case.states(sweep.num_layers) if delta else None for _ in range(2)]
    terms = Terms(g, *corrections)
    expected, expected_terms = doubled(u), doubled_terms(terms)
    filters64, saved64 = doubled_filters(filters), doubled_saved(saved)
    with Launched() as launched:
        if adjoint:
            conv_step.adjoint_sweep(u, saved, filters, DT, case.activation, sweep, terms)
        else:
            conv_step.sweep(u, filters, DT, case.activation, sweep, terms)
    assert launched.names == {"conv_step_kernel": case.convolutions * len(list(sweep.marched()))}
    if adjoint:
        reference.adjoint_sweep(expected, saved64, filters64, DT, case.activation, sweep, expected_terms)
    else:
        reference.sweep(expected, filters64, DT, case.activation, sweep, expected_terms)
    assert_near(u, expected, "states")
    check_ends()
    if case.order == "spread":
        assert u._base is not None and u._base[0::2].isnan().all()


def check_step(case: Case, layers: int) -> None:
    """advance, saved, vjp and the parameters' gradients, in as many launches for all layers as for one."""
    u, lam, filters = case.states(layers), case.states(layers), case.filters(layers)
    out = like(u, torch.full_like(u, torch.nan))
    u64, lam64, filters64 = doubled(u), doubled(lam), doubled_filters(filters)
    expected = torch.empty_like(u64)
    saved64 = reference.advance(u64, filters64, DT, case.activation, expected, save=True)

    with Launched() as launched:
        assert not conv_step.advance(u, filters, DT, case.activation, out, save=True)
    assert launched.names == {"conv_step_kernel": case.convolutions}
    assert_near(out, expected, "advance")

    with Launched() as launched:
        saved = conv_step.linearise(u, filters, case.activation)
    assert launched.names == {"conv_step_kernel": case.convolutions}
    assert len(saved) == layers
    for i, (one, other) in enumerate(zip(saved.stacked(), saved64.stacked(), strict=True)):
        assert_near(one, other, f"saved of convolution {i}")

    out.fill_(torch.nan)
    saved64 = doubled_saved(saved)
    reference.vjp(lam64, saved64, filters64, DT, case.activation, expected)
    with Launched() as launched:
        conv_step.vjp(lam, saved, filters, DT, case.activation, out)
    assert launched.names == {"conv_step_kernel": case.convolutions}
    assert_near(out, expected, "vjp")

    with Launched() as launched:
        gradients = conv_step.parameter_gradient(lam, saved, u, filters, DT, case.activation)
    assert launched.names == {"conv_gradient_kernel": case.convolutions} | (
        {"conv_step_kernel": case.convolutions - 1} if case.convolutions > 1 else {}
    )
    oracle = reference.parameter_gradient(lam64, saved64, u64, filters64, DT, case.activation)
    for i, (pair, other) in enumerate(zip(gradients, oracle, strict=True)):
        assert_near(pair[0], other[0], f"dW of convolution {i}")
        assert_near(pair[1], other[1], f"db of convolution {i}")
    assert torch.equal(doubled(u), u64) and torch.equal(doubled(lam), lam64)


def leaves(case: Case, layers: int) -> list[Tensor | None]:
    """u, w1, b1, w2, b2 of the functional form, requiring grad; None where there is none."""
    parameters = [t for each in case.filters(layers) for t in each]
    tensors = [case.states(layers), *parameters, *[None] * (4 - len(parameters))]
    return [None if t is None else t.detach().requires_grad_() for t in tensors]
