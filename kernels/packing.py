"""A sweep as integers, which is how operators of torch take it."""

from collections.abc import Sequence

from lpgpu.kernels.sweep import Sweep


def integers_of(sweep: Sweep) -> list[int]:
    """[layers, first, interval, steps, reverse]."""
    return [sweep.num_layers, sweep.first, sweep.interval, sweep.steps, int(sweep.reverse)]


def sweep_of(integers: Sequence[int]) -> Sweep:
    """The sweep these integers stand for."""
    *where, reverse = integers
    return Sweep(*where, reverse=bool(reverse))
