"""The fused convolutional step against the reference in fp64, on a device and in a dtype: interpreter and GPU."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lpgpu.kernels import conv_step
from lpgpu.kernels.conv_step import Kept, Kernel, reference
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

    def kernels(self, layers: int) -> list[Kernel]:
        channels = self.shape[1]
        made = []
        for _ in range(self.convolutions):
            scale = (9 * channels) ** -0.5
            w = random(layers, channels, channels, 3, 3, dtype=self.dtype, device=self.device, scale=scale)
            b = random(layers, channels, dtype=self.dtype, device=self.device)
            # as `conv_step.packed` lays them out on a GPU
            w = w.permute(0, 3, 4, 2, 1).contiguous().permute(0, 4, 3, 1, 2) if self.packed else spread(w)
            made.append(Kernel(w, spread(b) if self.bias else None))
        return made

    def kept(self, kernels: list[Kernel]) -> Kept:
        u = self.states(len(kernels[0].w))
        return Kept([like(u, each) for each in reference.kept(u, kernels, self.activation).stacked()])


def doubled_kernels(kernels: list[Kernel]) -> list[Kernel]:
    return [Kernel(doubled(w), doubled(b)) for w, b in kernels]  # pyright: ignore[reportArgumentType]


def doubled_kept(kept: Kept) -> Kept:
    return Kept([doubled(each) for each in kept.stacked()])  # pyright: ignore[reportArgumentType]


def check_sweep(case: Case, sweep: Sweep, *, adjoint: bool, rhs: bool, delta: bool) -> None:
    """One launch per step and convolution."""
    (u, check_ends), kernels = guarded(case.states, sweep.num_layers + 1), case.kernels(sweep.num_layers)
    for _, _, targets in sweep.marched():
        u[targets] = torch.nan
    kept = case.kept(kernels)
    g = case.states(sweep.num_layers + 1) if rhs else None
    corrections = [case.states(sweep.num_layers) if delta else None for _ in range(2)]
    terms = Terms(g, *corrections)
    expected, expected_terms = doubled(u), doubled_terms(terms)
    kernels64, kept64 = doubled_kernels(kernels), doubled_kept(kept)
    with Launched() as launched:
        if adjoint:
            conv_step.adjoint_sweep(u, kept, kernels, DT, case.activation, sweep, terms)
        else:
            conv_step.sweep(u, kernels, DT, case.activation, sweep, terms)
    assert launched.names == {"conv_step_kernel": case.convolutions * len(list(sweep.marched()))}
    if adjoint:
        reference.adjoint_sweep(expected, kept64, kernels64, DT, case.activation, sweep, expected_terms)
    else:
        reference.sweep(expected, kernels64, DT, case.activation, sweep, expected_terms)
    assert_near(u, expected, "states")
    check_ends()
    if case.order == "spread":
        assert u._base is not None and u._base[0::2].isnan().all()


def check_step(case: Case, layers: int) -> None:
    """advance, kept, vjp and the parameters' gradients, in as many launches for all layers as for one."""
    u, lam, kernels = case.states(layers), case.states(layers), case.kernels(layers)
    out = like(u, torch.full_like(u, torch.nan))
    u64, lam64, kernels64 = doubled(u), doubled(lam), doubled_kernels(kernels)
    expected = torch.empty_like(u64)
    kept64 = reference.advance(u64, kernels64, DT, case.activation, expected, keep=True)

    with Launched() as launched:
        assert not conv_step.advance(u, kernels, DT, case.activation, out, keep=True)
    assert launched.names == {"conv_step_kernel": case.convolutions}
    assert_near(out, expected, "advance")

    with Launched() as launched:
        kept = conv_step.kept(u, kernels, case.activation)
    assert launched.names == {"conv_step_kernel": case.convolutions}
    assert len(kept) == layers
    for i, (one, other) in enumerate(zip(kept.stacked(), kept64.stacked(), strict=True)):
        assert_near(one, other, f"kept of convolution {i}")

    out.fill_(torch.nan)
    kept64 = doubled_kept(kept)
    reference.vjp(lam64, kept64, kernels64, DT, case.activation, expected)
    with Launched() as launched:
        conv_step.vjp(lam, kept, kernels, DT, case.activation, out)
    assert launched.names == {"conv_step_kernel": case.convolutions}
    assert_near(out, expected, "vjp")

    with Launched() as launched:
        gradients = conv_step.parameter_gradient(lam, kept, u, kernels, DT, case.activation)
    assert launched.names == {"conv_gradient_kernel": case.convolutions} | (
        {"conv_step_kernel": case.convolutions - 1} if case.convolutions > 1 else {}
    )
    oracle = reference.parameter_gradient(lam64, kept64, u64, kernels64, DT, case.activation)
    for i, (pair, other) in enumerate(zip(gradients, oracle, strict=True)):
        assert_near(pair[0], other[0], f"dW of convolution {i}")
        assert_near(pair[1], other[1], f"db of convolution {i}")
    assert torch.equal(doubled(u), u64) and torch.equal(doubled(lam), lam64)


def leaves(case: Case, layers: int) -> list[Tensor | None]:
    """u, w1, b1, w2, b2 of the functional form, requiring grad; None where there is none."""
    parameters = [t for kernel in case.kernels(layers) for t in kernel]
    tensors = [case.states(layers), *parameters, *[None] * (4 - len(parameters))]
    return [None if t is None else t.detach().requires_grad_() for t in tensors]
