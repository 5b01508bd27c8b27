"""One cycle of MGRIT: relax, restrict, solve coarse, correct, relax."""

from collections.abc import Callable, Sequence

from torch import Tensor

from lpgpu.mgrit.fas import correct, restrict
from lpgpu.mgrit.level import Level
from lpgpu.mgrit.relaxation import f_relax, relax, solve_serially

Levels = Sequence[Level]


def v_cycle(levels: Levels, **options) -> Tensor | None:
    """Visit every level once on the way down and once on the way up. Arguments and result as for `_cycle`."""
    return _cycle(levels, v_cycle, **options)


def f_cycle(levels: Levels, **options) -> Tensor | None:
    """A V-cycle with one more V-cycle from every coarse level on the way up. Arguments and result as for `_cycle`."""
    return _cycle(levels, _f_then_v_cycle, **options)


def w_cycle(levels: Levels, **options) -> Tensor | None:
    """Visit every coarse level twice from each visit of the next finer one. Arguments and result as for `_cycle`."""
    return _cycle(levels, _w_twice, **options)


CYCLES = {"V": v_cycle, "F": f_cycle, "W": w_cycle}


def _cycle(
    levels: Levels,
    solve_coarse: Callable[[Levels], object],
    *,
    f_points_current: bool = False,
    satisfied: Callable[[Tensor], bool] = lambda squared_norm: False,
) -> Tensor | None:
    """Improve the states of the finest of `levels`; ‖r‖² at its C-points, as it was before the correction.

    `f_points_current`: the F-sweep that ended the last cycle is not repeated. `satisfied(‖r‖²)` may end the cycle
    before the coarse solve. The coarsest level is solved, and has no residual.
    """
    fine, *coarser = levels
    if not coarser:
        solve_serially(fine)
        return None
    relax(fine, f_points_current=f_points_current)
    squared_norm = restrict(fine, coarser[0])
    if not satisfied(squared_norm):
        solve_coarse(coarser)
        correct(fine, coarser[0])
        f_relax(fine)
    return squared_norm


def _f_then_v_cycle(levels: Levels) -> None:
    f_cycle(levels)
    if len(levels) > 1:
        v_cycle(levels, f_points_current=True)


def _w_twice(levels: Levels) -> None:
    w_cycle(levels)
    if len(levels) > 1:
        w_cycle(levels, f_points_current=True)
