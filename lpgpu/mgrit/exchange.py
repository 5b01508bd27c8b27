"""Every message of a solve leaves from this file.

Neighbours share a point. Its state goes on in the direction of the march, once in each half-sweep that changes it:

    sweep      F-points, after an F-sweep of the rank that computes them; C-points, after a C-relaxation
    home       where an interval ends above the rank that it began on, its coarse layer hears of that end: before the
               coarse solve, Φ(u_{(K+1)m−1}) of the forward problem, or λ_{(K+1)m} of the adjoint
    refresh    a corrected C-point, to the rank below if that has no coarse layer of its own there

and, once a solve: with Picard operators the halo, which is parameters (forward) or states (adjoint) of the first layers
for the ranks below whose last coarse steps go through them; broadcasts of the state at the end and, for a constant
initial guess, of the given one; a sum for norms (one a cycle with a tolerance). The coarsest level passes one state
from rank to rank, or where it is affine two states in each of ⌈log₂ P⌉ rounds; nothing gathers states.

Receives are posted before the work that they are waited for after. Sends are of copies, and are never waited for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lpgpu.comm import Arrival, Communicator
from lpgpu.mgrit.grid import Grid
from lpgpu.mgrit.halo import Halo, HaloOf
from lpgpu.mgrit.level import Level
from lpgpu.mgrit.result import Work
from lpgpu.mgrit.slices import length
from lpgpu.mgrit.states import States


@dataclass(frozen=True)
class HaloExchange(HaloOf):
    """Sends this rank's first layers down and gets those of its halo: `exchange(own [n, ...])` is the halo [h, ...]."""

    communicator: Communicator
    halo: Halo
    work: Work

    @property
    def layers_sent(self) -> int:
        """How many of this rank's first layers go to the ranks below, at most."""
        return max((count for _, count in self.halo.targets), default=0)

    def __call__(self, own: Tensor) -> Tensor:
        arrivals = [
            self.communicator.receive(own.new_empty(count, *own.shape[1:]), rank) for rank, count in self.halo.sources
        ]
        for rank, count in self.halo.targets:
            self.work.messages += 1
            self.work.bytes_sent += own[:count].numel() * own.element_size()
            self.communicator.send(own[:count], rank)
        return torch.cat([own[:0], *(arrival.wait() for arrival in arrivals)])


class Boundary:
    """The passing on of this rank's boundary states in one half-sweep.

    `concerned` says of a point of the whole level whether this half-sweep changes it. Posts the receive.
    """

    def __init__(self, level: Level, concerned: Callable[[int], bool]) -> None:
        grid = level.grid
        self._level = level
        self._sends = grid.downstream is not None and concerned(grid.of_level(grid.end))
        self._arrival: Arrival | None = None
        if grid.upstream is not None and concerned(grid.of_level(grid.start)):
            self._arrival = level.communicator.receive(level.states.start, grid.upstream)

    def wait(self) -> None:
        """Have the state from upstream where this rank's march starts, if one is due."""
        if self._arrival is not None:
            self._level.states.start.copy_(self._arrival.wait())

    def send(self) -> None:
        """Pass on the state at which this rank's march has arrived, if it is due."""
        if self._sends:
            _send(self._level, self._level.states.end, self._level.grid.downstream)


def arrive_at_start(level: Level, product: Tensor) -> None:
    """Set the state where this rank's march starts on an affine level, whose states were marched from zero, or u_0.

    From start to end, a rank's layers are the map v ↦ A ⊙ v + c; `product` is A. Round d = 1, 2, 4, … composes with the
    maps of the d ranks upstream (Hillis & Steele 1986), so that after ⌈log₂ P⌉ rounds every rank knows the state at its
    end.
    """
    grid, states = level.grid, level.states
    if not grid.takes_part or grid.partition is None:
        return
    ranks = grid.partition.taking_part[:: -1 if grid.reverse else 1]
    here = ranks.index(grid.partition.rank)
    factor = torch.zeros_like(states.end) if grid.begins else product
    composed = torch.stack([factor, states.end if grid.local_steps or grid.begins else torch.zeros_like(factor)])
    distance = 1
    while distance < len(ranks):
        arrival = level.communicator.receive(composed, ranks[here - distance]) if here >= distance else None
        if here + distance < len(ranks):
            _send(level, composed, ranks[here + distance])
        if arrival is not None:
            factor, offset = arrival.wait()
            composed = torch.stack([composed[0] * factor, composed[0] * offset + composed[1]])
        distance *= 2
    arrival = level.communicator.receive(states.start, ranks[here - 1]) if here else None
    if here + 1 < len(ranks):
        _send(level, composed[1], ranks[here + 1])
    if arrival is not None:
        states.start.copy_(arrival.wait())


def bring_home(level: Level, own: Tensor | None, join: Callable[[Tensor], Tensor]) -> Tensor | None:
    """What is known above of the end of this rank's last interval, where that interval ends above; else None.

    `own`, of a state's shape, is sent home to the rank below, where an interval from there ends here. Where that ends
    further above `own` is None, and `join(what came from above)` goes on down.
    """
    grid = level.grid
    sends = grid.below is not None and _inside_full_interval(level, grid.of_level(0))
    arrival = None
    if grid.above is not None and _inside_full_interval(level, grid.of_level(grid.local_steps)):
        arrival = level.communicator.receive(level.states.start, grid.above)
    if sends and own is not None:
        _send(level, own, grid.below)
    from_above = None if arrival is None else arrival.wait()
    if sends and own is None and from_above is not None:
        _send(level, join(from_above), grid.below)
    return from_above


def refresh_c_points(fine: Level, coarse: Level) -> None:
    """Send a corrected C-point to the rank below, if that shares it and has no part in the coarse level."""
    grid = fine.grid
    if grid.below is not None and grid.is_c(grid.of_level(0)) and coarse.grid.below != grid.below:
        _send(fine, fine.states.c_points[0], grid.below)
    if grid.above is not None and grid.is_c(grid.of_level(grid.local_steps)) and not coarse.grid.takes_part:
        last = fine.states.c_points[-1]
        last.copy_(fine.communicator.receive(last, grid.above).wait())


def given_state(level: Level) -> Tensor:
    """u_0 of a forward problem, on every rank."""
    return state_of_rank(level.communicator, level.states.start, 0)


def state_of_rank(communicator: Communicator, state: Tensor, rank: int) -> Tensor:
    """A copy of `state` as `rank` has it, on every rank."""
    return communicator.broadcast(state.clone(memory_format=torch.contiguous_format), rank)


def of_first_point(communicator: Communicator, grid: Grid, of_last_point: Tensor) -> Tensor:
    """What the rank below has for its last point, which is this rank's first; zero where that is the network's."""
    arrival = None if grid.below is None else communicator.receive(of_last_point, grid.below)
    if grid.above is not None:
        communicator.send(of_last_point, grid.above)
    return torch.zeros_like(of_last_point) if arrival is None else arrival.wait()


def c_point_below(communicator: Communicator, grid: Grid, states: States) -> Tensor | None:
    """u at the last C-point before this rank's first layer, where that is inside an interval; else None."""
    below = None
    own = states.c_points[-1] if length(grid.c_points) else None
    if grid.below is not None and grid.head:
        below = communicator.receive(states.start, grid.below).wait()
    if grid.above is not None and not grid.is_c(grid.of_level(grid.local_steps)):
        communicator.send(below if own is None else own, grid.above)  # pyright: ignore[reportArgumentType]
    return below


def global_sum(communicator: Communicator, value: Tensor) -> Tensor:
    """The sum of `value` over the ranks that share the hierarchy."""
    return communicator.sum(value)


def _inside_full_interval(level: Level, point: int) -> bool:
    grid = level.grid
    return not grid.is_c(point) and point < grid.num_coarse_steps * grid.interval


def _send(level: Level, state: Tensor, to: int | None) -> None:
    if to is None:
        raise ValueError("there is no rank to send to")
    work = level.propagator.work
    work.messages += 1
    work.bytes_sent += state.numel() * state.element_size()
    level.communicator.send(state, to)
