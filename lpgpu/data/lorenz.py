"""Signals of the Lorenz system (E. Lorenz, Deterministic nonperiodic flow, 1963), and which system each is of.

    x′ = σ (y − x),   y′ = x (ρ − z) − y,   z′ = x y − β z,   σ = 10,  β = 8/3

Only x is observed. The class is ρ, one of four, all of them chaotic: it shows in how far and how fast x swings, in the
mean over many turns, and not in any few steps.
"""

import torch
from torch import Tensor

from lpgpu.data.dataset import Dataset

RHO = (26.0, 30.0, 34.0, 38.0)
SIGMA, BETA = 10.0, 8 / 3
SCALE = 10.0  # of the observation
INNER, BURN_IN = 2, 1000  # steps of the integrator within one of the sequence; steps before it, to reach the attractor


def lorenz(u: Tensor, rho: Tensor) -> Tensor:
    """u′ of u = (x, y, z), `[..., 3]`."""
    x, y, z = u.unbind(-1)
    return torch.stack([SIGMA * (y - x), x * (rho - z) - y, x * y - BETA * z], -1)


def load_lorenz(
    steps: int, *, dt: float = 0.02, train_sequences: int = 2000, test_sequences: int = 500, seed: int = 0
) -> Dataset:
    """Observations x/10, float32 `[n, steps, 1]`, `dt` apart, and the index of ρ. Each seed starts elsewhere.

    As many of every class, up to one. Integrated in float64 by the classical Runge–Kutta rule with dt/2.

    Raises:
        ValueError: for no steps, no sequences, or a `dt` that the rule does not follow.
    """
    if steps < 1 or min(train_sequences, test_sequences) < 1:
        raise ValueError(
            f"there are {train_sequences} and {test_sequences} sequences of {steps} steps; expected at least one each"
        )
    if not 0 < dt <= 0.04:
        raise ValueError(f"dt is {dt}; expected a number within (0, 0.04]")
    generator = torch.Generator().manual_seed(seed)
    count = train_sequences + test_sequences
    labels = torch.arange(count) % len(RHO)
    inputs = _observed(steps, dt, torch.tensor(RHO, dtype=torch.float64)[labels], generator)
    return Dataset(
        train_inputs=inputs[:train_sequences],
        train_labels=labels[:train_sequences],
        test_inputs=inputs[train_sequences:],
        test_labels=labels[train_sequences:],
        classes=len(RHO),
    )


def _observed(steps: int, dt: float, rho: Tensor, generator: torch.Generator) -> Tensor:
    h, out = dt / INNER, torch.empty(len(rho), steps, 1)
    u = torch.randn(len(rho), 3, dtype=torch.float64, generator=generator) + torch.tensor([0.0, 0.0, 25.0])
    for k in range(-BURN_IN, steps * INNER):
        if k >= 0 and k % INNER == 0:
            out[:, k // INNER, 0] = u[:, 0] / SCALE
        k1 = lorenz(u, rho)
        k2 = lorenz(u + h / 2 * k1, rho)
        k3 = lorenz(u + h / 2 * k2, rho)
        k4 = lorenz(u + h * k3, rho)
        u = u + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return out
