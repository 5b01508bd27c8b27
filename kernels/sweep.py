"""A sweep: consecutive layers of many intervals, all intervals at once, in place. Its geometry, and the plain way.

A window has L layers k = 0 … L−1 between the points 0 … L; layer k leads from point k to k+1 (in reverse from k+1 to
k). Step j of a sweep visits layer `first` + i·`interval` ± j of every interval i, and each step continues from where
the one before it arrived:

    u_target = Φ_k(u_source) + δ_k ⊙ (u_source − anchor_k) + g_target

What is added to Φ, and the products that a sweep takes on its way, are its `Terms`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

Phi = Callable[[slice, Tensor, Tensor, Tensor | None], object]
"""`phi(layers, u_source, out, diagonal)` sets out = Φ(u_source), and diagonal = diag(∂Φ/∂u) where it is given."""


class Step(NamedTuple):
    """One step of a sweep: the layers it visits, the points it starts from and those it leads to."""

    layers: slice
    sources: slice
    targets: slice


@dataclass(frozen=True)
class Terms:
    """What a sweep adds to Φ, and what it gathers; None where there is no such term.

    Attributes:
        g: the right-hand side at each point, [L + 1, ...].
        delta, anchors: δ_k and the states it was taken at, by layers, [L, ...]; both or neither.
        products: becomes the product of diag(∂Φ_k/∂u) + δ_k over each interval's steps, [intervals, ...].
    """

    g: Tensor | None = None
    delta: Tensor | None = None
    anchors: Tensor | None = None
    products: Tensor | None = None

    def at(self, step: Step) -> "Terms":
        """The terms of one step: g at its targets, δ and anchors of its layers, the same products."""
        return self.of(step.layers, step.targets)

    def of(self, layers: slice, points: slice) -> "Terms":
        """The terms of some layers, with g at these points; the same products."""
        g, delta, anchors = self.g, self.delta, self.anchors
        return Terms(
            None if g is None else g[points],
            None if delta is None else delta[layers],
            None if anchors is None else anchors[layers],
            self.products,
        )

    @property
    def arrays(self) -> int:
        """The number of arrays that each step reads, of g, δ and anchors."""
        return (self.g is not None) + (self.delta is not None) + (self.anchors is not None)

    def tensors(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """g, δ, anchors and products, in this order."""
        return self.g, self.delta, self.anchors, self.products


NO_TERMS = Terms()


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

    SCHEMA: ClassVar[str] = "int[]"

    def __post_init__(self) -> None:
        last = self.first + (1 - self.steps if self.reverse else self.steps - 1)
        if self.steps < 1 or self.interval < 1 or not (0 <= self.first < self.num_layers and last >= 0):
            raise ValueError(f"{self} leaves its window; expected steps within layers 0 … {self.num_layers - 1}")
        if self.steps >= self.interval and self.num_intervals > 1:
            raise ValueError(f"{self} writes the states that other intervals start from; expected fewer steps")
        if self.reverse and len(range(self.first, self.num_layers, self.interval)) != self.num_intervals:
            raise ValueError(f"{self} meets a short interval in reverse; sweep that as a window of its own")

    def as_operand(self) -> list[int]:
        """As operators of torch take it: five integers."""
        return [self.num_layers, self.first, self.interval, self.steps, int(self.reverse)]

    @classmethod
    def of_operand(cls, integers: Sequence[int]) -> "Sweep":
        """The sweep these integers stand for."""
        *where, reverse = integers
        return cls(*where, reverse=bool(reverse))

    @property
    def num_intervals(self) -> int:
        """How many intervals are swept, a short last one included."""
        first = self.first + 1 - self.steps if self.reverse else self.first
        return len(range(first, self.num_layers, self.interval))

    @property
    def direction(self) -> int:
        """+1, or −1 in reverse."""
        return -1 if self.reverse else 1

    @property
    def starts(self) -> tuple[int, int, int]:
        """The layer, the source and the target of the first interval's first step."""
        return self.first, self.first + self.reverse, self.first + (not self.reverse)

    def layers(self, j: int) -> slice:
        """The layers that step j visits."""
        return slice(self.first + self.direction * j, self.num_layers, self.interval)

    def sources(self, j: int) -> slice:
        """The points that step j starts from."""
        return _shifted(self.layers(j), 1) if self.reverse else self.layers(j)

    def targets(self, j: int) -> slice:
        """The points that step j leads to."""
        return self.layers(j) if self.reverse else _shifted(self.layers(j), 1)

    def marched(self) -> Iterator[Step]:
        """Each step that visits any layer, in order."""
        for j in range(self.steps):
            layers = self.layers(j)
            if layers.start < self.num_layers:
                points = _shifted(layers, 1)
                yield Step(layers, points, layers) if self.reverse else Step(layers, layers, points)

    @property
    def evaluations(self) -> int:
        """How many layers are visited in all."""
        starts = (self.first + self.direction * j for j in range(self.steps))
        return sum(len(range(start, self.num_layers, self.interval)) for start in starts)


def march(sweep: Sweep, phi: Phi, u: Tensor, terms: Terms = NO_TERMS) -> None:
    """Sweep one step after the other, in place; `u` is [L + 1, ...].

    >>> u = torch.tensor([1.0, 0.0, 0.0, 0.0])
    >>> double = lambda layers, u_source, out, diagonal: torch.mul(u_source, 2, out=out)
    >>> march(Sweep(num_layers=3, first=0, interval=3, steps=3), double, u)
    >>> u.tolist()
    [1.0, 2.0, 4.0, 8.0]
    """
    products = terms.products
    if products is not None:
        products.fill_(1)
    for step in sweep.marched():
        source, out, here = u[step.sources], u[step.targets], terms.at(step)
        diagonal = None if products is None else torch.empty_like(source)
        phi(step.layers, source, out, diagonal)
        if here.delta is not None and here.anchors is not None:
            out.addcmul_(here.delta, source - here.anchors)
        if here.g is not None:
            out += here.g
        if products is not None and diagonal is not None:
            if here.delta is not None:
                diagonal += here.delta
            products[: len(diagonal)] *= diagonal


def _shifted(indices: slice, by: int) -> slice:
    return slice(indices.start + by, indices.stop + by, indices.step)
