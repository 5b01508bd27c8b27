"""Drawings of one coarse step, computed for a small scalar network."""

import numpy as np
from canvas import BLUE, GREEN, GREY, INK, ORANGE, RED, WIDTH, plt
from matplotlib.figure import Figure

M = 8  # layers in the interval
DT = 0.25
WEIGHTS = np.array([1.6, 1.5, 1.2, 0.8, 0.3, -0.3, -1.0, -1.6])
BIASES = np.array([0.2, 0.2, 0.1, 0.0, -0.1, -0.2, -0.3, -0.3])


def phi(k: int, u: float) -> float:
    """u + Δt tanh(w_k u + b_k)."""
    return u + DT * np.tanh(WEIGHTS[k] * u + BIASES[k])


def slope(k: int, u: float) -> float:
    """∂Φ_k/∂u."""
    return 1 + DT * WEIGHTS[k] * (1 - np.tanh(WEIGHTS[k] * u + BIASES[k]) ** 2)


def fine(u: float) -> list[float]:
    """The states of the interval's layers, from u on."""
    states = [u]
    for k in range(M):
        states.append(phi(k, states[-1]))
    return states


def rediscretised(u: float) -> float:
    """The first layer with the step m Δt."""
    return u + M * (phi(0, u) - u)


def picard(u: float, order: int) -> list[float]:
    """The states of the interval after so many Picard iterations."""
    states = [u] * (M + 1)
    for _ in range(order):
        increments = [phi(k, states[k]) - states[k] for k in range(M)]
        states = [u, *(u + np.cumsum(increments))]
    return states


def coarse_operators() -> Figure:
    """One step over an interval of 8 layers by each coarse operator, beside the layers themselves."""
    u = 0.4
    figure, axes = plt.subplots(figsize=(WIDTH, 3.7))
    exact, ks = fine(u), range(M + 1)
    axes.plot(ks, exact, "o-", color=INK, ms=5, lw=2, label="layer after layer (exact)", zorder=5)
    axes.plot([0, M], [u, rediscretised(u)], "--", color=ORANGE, lw=1.8, label="rediscretised")
    for order, style in ((1, "-"), (2, "--"), (3, ":")):
        axes.plot(ks, picard(u, order), style, color=BLUE, lw=1.8, label=f"Picard, order {order}")
    axes.set(xlabel="layer of the interval", ylabel="state", xticks=(0, M))
    axes.set_xticklabels(["0\nC-point", "m = 8\nnext C-point"])
    axes.legend(loc="upper left", fontsize=9.5)
    figure.tight_layout()
    return figure


def correction() -> Figure:
    """Where the next C-point lies as a function of this one: exact, coarse, with FAS, with Δ."""
    u, v = 0.2, np.linspace(-0.25, 0.65, 200)
    figure, axes = plt.subplots(figsize=(WIDTH, 3.9))
    at = fine(u)
    tau = at[-1] - rediscretised(u)
    by_layers = float(np.prod([slope(k, at[k]) for k in range(M)]))
    delta = by_layers - (1 + M * (slope(0, u) - 1))
    axes.plot(v, [fine(x)[-1] for x in v], color=INK, lw=2.2, label="through all layers")
    axes.plot(v, rediscretised(v), ":", color=GREY, lw=1.8, label="coarse step alone")
    axes.plot(v, rediscretised(v) + tau, "--", color=ORANGE, lw=1.8, label="coarse step + FAS right-hand side")
    axes.plot(v, rediscretised(v) + tau + delta * (v - u), color=GREEN, lw=1.8, label="… + Δ-correction")
    axes.plot(u, at[-1], "o", color=RED, ms=7, zorder=5)
    axes.set(xlabel="state at a C-point", ylabel="state at the next C-point", xticks=(u,), yticks=())
    axes.set_xticklabels(["u, as it is now"])
    axes.legend(loc="upper left", fontsize=9.5)
    figure.tight_layout()
    return figure
