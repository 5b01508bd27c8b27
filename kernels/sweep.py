"""A sweep: consecutive layers of many intervals, all intervals at once, in place. Its geometry, and the plain way.

A window has L layers k = 0 … L−1 between the points 0 … L; layer k leads from point k to k+1 (in reverse from k+1 to
k). Step j of a sweep visits layer `first` + i·`interval` ± j of every interval i, and each step continues from where
the one before it arrived:

    u_target = Φ_k(u_source) + δ_k ⊙ (u_source − anchor_k) + g_target

Shapes: `u` and `g` [L + 1, ...] by points, `delta` and `anchors` [L, ...] by layers, `products` [intervals, ...].
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Step = Callable[[slice, Tensor, Tensor, Tensor | None], object]


@dataclass(frozen=True)
class Sweep:
    """Which layers of a window a sweep visits.

    The last interval may be shorter than the others: marching forward it ends early. In reverse a short interval is a
    window of its own.

    Raises:
        ValueError: for a sweep that leaves its window, whose intervals run into each other, or are of unequal length in
            reverse.
    """

    num_layers: int
    first: int
    interval: int
    steps: int
    reverse: bool = False

    def __post_init__(self) -> None:
        last = self.first + (1 - self.steps if self.reverse else self.steps - 1)
        if self.steps < 1 or self.interval < 1 or not (0 <= self.first < self.num_layers and last >= 0):
            raise ValueError(f"{self} leaves its window; expected steps within layers 0 … {self.num_layers - 1}")
        if self.steps >= self.interval and self.num_intervals > 1:
            raise ValueError(f"{self} writes the states that other intervals start from; expected fewer steps")
        if self.reverse and len(range(self.first, self.num_layers, self.interval)) != self.num_intervals:
            raise ValueError(f"{self} meets a short interval in reverse; sweep that as a window of its own")

    @property
    def num_intervals(self) -> int:
        """How many intervals are swept, a short last one included."""
        first = self.first + 1 - self.steps if self.reverse else self.first
        return len(range(first, self.num_layers, self.interval))

    @property
    def direction(self) -> int:
        """+1, or −1 in reverse."""
        return -1 if self.reverse else 1

    def layers(self, j: int) -> slice:
        """The layers that step j visits."""
        return slice(self.first + self.direction * j, self.num_layers, self.interval)

    def sources(self, j: int) -> slice:
        """The points that step j starts from."""
        return _shifted(self.layers(j), 1) if self.reverse else self.layers(j)

    def targets(self, j: int) -> slice:
        """The points that step j leads to."""
        return self.layers(j) if self.reverse else _shifted(self.layers(j), 1)

    def marched(self) -> Iterator[tuple[slice, slice, slice]]:
        """(layers, sources, targets) of each step that visits any layer."""
        for j in range(self.steps):
            if range(self.num_layers)[self.layers(j)]:
                yield self.layers(j), self.sources(j), self.targets(j)


def march(
    sweep: Sweep,
    step: Step,
    u: Tensor,
    g: Tensor | None = None,
    delta: Tensor | None = None,
    anchors: Tensor | None = None,
    products: Tensor | None = None,
) -> None:
    """Sweep one step after the other: `step(layers, u_source, out, diagonal)` sets out = Φ(u_source).

    Where `products` is given, `step` sets `diagonal` to that of Φ's Jacobian, and `products` becomes the product of
    diagonal + δ over each interval's steps.
    """
    if products is not None:
        products.fill_(1)
    for layers, sources, targets in sweep.marched():
        source, out = u[sources], u[targets]
        diagonal = None if products is None else torch.empty_like(source)
        step(layers, source, out, diagonal)
        if delta is not None and anchors is not None:
            out.addcmul_(delta[layers], source - anchors[layers])
        if g is not None:
            out += g[targets]
        if products is not None and diagonal is not None:
            if delta is not None:
                diagonal += delta[layers]
            products[: len(diagonal)] *= diagonal


def _shifted(indices: slice, by: int) -> slice:
    return slice(indices.start + by, indices.stop + by, indices.step)
