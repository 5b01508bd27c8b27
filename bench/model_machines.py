"""What `bench/model.py` knows of machines and of the work they do."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Machine:
    """Seconds of a batched step, forward and adjoint, of each layer's linearisation and gradient, and of a message.

    `call` is what a forward and a backward cost however little they do.
    """

    overhead: float
    layer: float
    adjoint_overhead: float
    adjoint_layer: float
    gradient: float
    latency: float
    bandwidth: float
    width: int = 1
    call: float = 0.0

    def step(self, layers: float, *, adjoint: bool) -> float:
        """One batched step."""
        overhead, layer = (self.adjoint_overhead, self.adjoint_layer) if adjoint else (self.overhead, self.layer)
        return overhead + layer * math.ceil(layers / self.width)


@dataclass(frozen=True)
class Work:
    """`steps` layers with states of so many bytes, in `parts` solves one after the other (stacked recurrent layers).

    `layer_bytes`: what a layer's step takes beside its state. `has_sources`: whether the loss sees the states between.
    """

    name: str
    steps: int
    state_bytes: int
    parts: int = 1
    layer_bytes: int = 0
    has_sources: bool = False


@dataclass(frozen=True)
class Seconds:
    """Of one training step: in all, and what the fullest rank computes of it."""

    total: float
    busy: float


@dataclass(frozen=True)
class Series:
    """A coarse operator with its cycles, as found on trained weights; `coarsening`: m, where it is not free."""

    name: str
    options: dict[str, Any]
    coarsening: int | None = None


UNIT = Machine(1.0, 0.0, 1.0, 0.0, 0.0, 0.0, math.inf)  # for what is counted, not timed

# Estimates, not measurements: an H100 that runs fused sweeps (about 0.5 µs a step of a recurrent cell with 128 units
# and 64 sequences, whose 4 row tiles leave room for 33 layers side by side; 20 µs for a step of two 3×3 convolutions of
# 64 channels on 50 images of 28 × 28), with 8 µs and 50 GB/s to a neighbour.
GPUS: dict[Work, Machine] = {
    Work("GRU, 4096 steps", 4096, 64 * 128 * 4, 2, 64 * 384 * 4, has_sources=True): Machine(
        0.2e-6, 0.5e-6, 0.2e-6, 0.8e-6, 0.3e-6, 8e-6, 50e9, 33
    ),
    Work("convolutions, 1024 layers", 1024, 50 * 64 * 784 * 2, layer_bytes=2 * 9 * 64 * 64 * 2): Machine(
        3e-6, 20e-6, 3e-6, 40e-6, 20e-6, 8e-6, 50e9
    ),
}

_REDISCRETISED = {"coarse_operator": "rediscretised", "iterations": 2, "adjoint_iterations": 1}
_PICARD = {"coarse_operator": "picard", "iterations": 2, "adjoint_iterations": 1}
_LINEAR = {"coarse_operator": "linear", "iterations": 6, "adjoint_iterations": 6}
SERIES: dict[Work, tuple[Series, ...]] = {
    work: (
        Series("rediscretised" + (" with Δ" if work.has_sources else "") + " 2/1", _REDISCRETISED),
        Series("Picard 1, 2/1", _PICARD),
        Series(
            "linear 6/6", _LINEAR | {"relaxation": "FCF" if work.has_sources else "F"}, 4 if work.has_sources else 2
        ),
    )
    for work in GPUS
}
