"""Where the first cycle starts from."""

from collections.abc import Sequence

from lpgpu.mgrit.cycle import v_cycle
from lpgpu.mgrit.fas import correct, restrict
from lpgpu.mgrit.level import Level
from lpgpu.mgrit.relaxation import f_relax, first_f_relax, solve_serially, sweep_short_interval


def initial_guess(levels: Sequence[Level], kind: str) -> None:
    """Fill the finest level's states from its given point, and F-relax.

    "constant": the given state at every C-point; for the adjoint, zero.
    "coarse": the coarsest level's serial solution, injected and F-relaxed level by level. Where the problem has sources
    of its own (`g`, as the adjoint of a recurrent network whose every output is used), a coarse grid that saw those at
    the C-points only would lose most of them: then a zero guess is F-relaxed and corrected once.
    """
    finest = levels[0]
    if finest.is_coarsest:
        solve_serially(finest)
    elif kind == "constant":
        _constant(finest)
    elif finest.g is None:
        _from_coarsest(levels)
    else:
        _from_sources(levels)


def _constant(level: Level) -> None:
    given = level.states.start.clone()
    level.states.c_points.copy_(given.new_zeros(()) if level.grid.reverse else given)
    level.states.start.copy_(given)
    first_f_relax(level)


def _from_coarsest(levels: Sequence[Level]) -> None:
    fine, *coarser = levels
    if not coarser:
        return solve_serially(fine)
    sweep_short_interval(fine)
    coarse = coarser[0]
    coarse.states.start.copy_(fine.states.c_points[coarse.grid.start])
    _from_coarsest(coarser)
    correct(fine, coarse)
    f_relax(fine, full_intervals_only=fine.grid.reverse)


def _from_sources(levels: Sequence[Level]) -> None:
    fine, *coarser = levels
    _constant(fine)
    restrict(fine, coarser[0])
    v_cycle(coarser)
    correct(fine, coarser[0])
    f_relax(fine)
