"""The levels of a solve: grids, each of the C-points of the one before."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from lpgpu.mgrit.grid import Grid
from lpgpu.mgrit.partition import Partition


@dataclass(frozen=True)
class Hierarchy:
    """Grids, finest first."""

    grids: tuple[Grid, ...]

    @classmethod
    def build(
        cls,
        num_steps: int,
        coarsening: Sequence[int],
        min_coarse_steps: int = 2,
        partition: Partition | None = None,
    ) -> "Hierarchy":
        """The grids of `num_steps` layers, coarsened by each of `coarsening` in turn, finest first.

        Stops early where the next grid would have fewer than `min_coarse_steps` layers. No coarsening at all, or a
        network too short for it, gives one level, which is solved exactly. `partition` is that of the finest level.

        Raises:
            ValueError: when `num_steps` is below 1 or a coarsening below 2.
        """
        return _built(num_steps, tuple(coarsening), min_coarse_steps, partition)

    def transpose(self) -> "Hierarchy":
        """The same grids, marched the other way."""
        return self._transposed

    @cached_property
    def _transposed(self) -> "Hierarchy":
        return Hierarchy(tuple(replace(grid, reverse=not grid.reverse) for grid in self.grids))


@lru_cache(maxsize=256)  # every call of a network asks for the same one
def _built(
    num_steps: int, coarsening: tuple[int, ...], min_coarse_steps: int, partition: Partition | None
) -> Hierarchy:
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; expected at least 1")
    grids = []
    stride = 1
    for level, m in enumerate(coarsening):
        if m < 2:
            raise ValueError(f"coarsening is {m} on level {level}; expected at least 2")
        if num_steps // m < min_coarse_steps:
            break
        grids.append(Grid(level, num_steps, m, stride, partition=partition))
        num_steps, stride = num_steps // m, stride * m
        partition = partition and partition.coarsened(m)
    grids.append(Grid(len(grids), num_steps, None, stride, partition=partition))
    return Hierarchy(tuple(grids))
