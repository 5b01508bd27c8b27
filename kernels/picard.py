"""Picard iterations over runs of S layers, K runs at once; and which layers of a stack are whose.

    v⁰_j = u;   p times:  v_0 = u,  v_{j+1} = Φ_j(v⁰_j) + D_j ⊙ (v_j − v⁰_j),  v⁰ ← v

j counts the layers of a run in marching order. What belongs to them comes as [K, S, ...], in the network's order: in
reverse j begins at the last. An operation's `picard` sets out = v_S; its `picard_sweep` marches so through a window of
L runs, each of which leads from one point of the window to the next (`kernels.sweep`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from lpgpu.kernels.affine_scan import reference
from lpgpu.kernels.layout import is_ordered_like, layer_extent

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""Φ_j of states [K, S, ...] at each layer's own, and the decays D_j, None for 1."""
Scan = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], object]


def iterate(
    evaluate: Evaluate, u: Tensor, span: int, order: int, *, reverse: bool, scan: Scan = reference.affine_scan
) -> Tensor:
    """v_S [K, ...] after `order` iterations over runs of `span` layers from u [K, ...].

    >>> import torch
    >>> iterate(lambda states: (2 * states, None), torch.ones(1, 1), 3, 1, reverse=False).item()
    4.0
    """
    start, end = (span, 0) if reverse else (0, span)
    v = empty_runs(u, len(u), span + 1)
    v[:, start] = u
    anchors = u.unsqueeze(1).expand(-1, span, *u.shape[1:])
    for iteration in range(order):
        phi, decay = evaluate(anchors)
        scan(v, phi, anchors, decay, reverse)
        if iteration + 1 < order:
            anchors = (v[:, 1:] if reverse else v[:, :-1]).clone()
    return v[:, end]


@dataclass(frozen=True)
class Runs:
    """K runs of `span` layers each, of N stacked ones: `begins` are their first layers.

    >>> import torch
    >>> Runs(slice(0, 8, 4), 2).of(torch.arange(6)).tolist()
    [[0, 1], [4, 5]]
    """

    begins: slice
    span: int

    def __len__(self) -> int:
        return len(range(self.begins.start, self.begins.stop, self.begins.step))

    def __getitem__(self, runs: slice) -> "Runs":
        """Some of the runs."""
        begins = range(self.begins.start, self.begins.stop, self.begins.step)[runs]
        return Runs(slice(begins.start, begins.stop, begins.step), self.span)

    @property
    def layers(self) -> slice:
        """From the first layer of the first run to the last of the last."""
        return slice(self.begins.start, self.begins.start + (len(self) - 1) * self.begins.step + self.span, 1)

    def from_first(self) -> "Runs":
        """The same runs, counted from the first one's first layer."""
        return Runs(slice(0, self.begins.stop - self.begins.start, self.begins.step), self.span)

    def at(self, j: int) -> slice:
        """Layer j of every run, in the network's order."""
        return slice(self.begins.start + j, self.begins.stop + j, self.begins.step)

    def of(self, stacked: Tensor) -> Tensor:
        """What of `stacked` [N, ...] belongs to the runs' layers: [K, span, ...], a view of that slice of it."""
        return self.within(stacked[self.layers])

    def within(self, theirs: Tensor) -> Tensor:
        """As `of`, from what belongs to `layers` alone."""
        return theirs.unfold(0, self.span, self.begins.step).movedim(-1, 1)

    def parts(self, most: int | None) -> Iterator[slice]:
        """The runs, `most` at a time."""
        count = len(self)
        for first in range(0, count, most or max(1, count)):
            yield slice(first, min(first + (most or count), count), 1)


def empty_runs(like: Tensor, count: int, steps: int) -> Tensor:
    """Uninitialised states [count, steps, ...], each in the memory order of one of `like` [K, ...]."""
    flat = like.new_empty_strided((count * steps, *like.shape[1:]), (layer_extent(like), *like.stride()[1:]))
    return flat.unflatten(0, (count, steps))


def runs_ordered_like(runs: Tensor, like: Tensor) -> Tensor:
    """`runs` [K, S, ...], or a copy whose states lie in memory as those of `like` [K, ...] do."""
    if is_ordered_like(runs[:, 0], like):
        return runs
    return empty_runs(like, *runs.shape[:2]).copy_(runs)


def check_order(order: int, span: int) -> None:
    """That there is a run, and at least one iteration.

    Raises:
        ValueError: saying what came and what was expected.
    """
    if span < 1:
        raise ValueError(f"runs of {span} layers; expected at least one")
    if order < 1:
        raise ValueError(f"order is {order}; expected at least 1")
