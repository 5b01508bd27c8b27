"""Where the first cycle starts from."""

from collections.abc import Sequence

from lpgpu.mgrit.cycle import v_cycle
from lpgpu.mgrit.exchange import given_state
from lpgpu.mgrit.fas import correct, restrict
from lpgpu.mgrit.level import Level
from lpgpu.mgrit.relaxation import f_relax, first_f_relax, solve_serially, sweep_short_interval


def initial_guess(levels: Sequence[Level], kind: str) -> None:
    """Fill the finest level's states from its given point, and F-relax.

    "constant": the given state at every C-point; for the adjoint, zero.
    "coarse": the coarsest level's serial solution, injected and F-relaxed level by level. An adjoint with sources of
    its own (`g`: the loss sees states between) or with a Δ-correction starts from zero instead, is F-relaxed, and
    corrected once: so the coarse grid hears of sources at F-points too, and is the corrected one from the start. A
    linear coarse operator, which has no solution of its own, starts so too, whatever `kind` says: from the given state.
    """
    finest = levels[0]
    if finest.is_coarsest:
        solve_serially(finest)
    elif levels[1].propagator.is_affine:
        _corrected(levels)
    elif kind == "constant":
        _constant(finest)
    elif finest.grid.reverse and (finest.g is not None or finest.products is not None):
        _corrected(levels)
    else:
        _from_coarsest(levels, nested=kind == "nested")


def _constant(level: Level, *, before_restriction: bool = False) -> None:
    states = level.states
    if not level.grid.reverse:
        states.c_points.copy_(given_state(level))
    elif not level.grid.begins:
        states.c_points.zero_()
    else:
        given = states.start.clone()  # which may be a C-point
        states.c_points.zero_()
        states.start.copy_(given)
    first_f_relax(level, before_restriction=before_restriction)


def _from_coarsest(levels: Sequence[Level], *, nested: bool, finest: bool = True) -> None:
    fine, *coarser = levels
    if not coarser:
        return solve_serially(fine)
    sweep_short_interval(fine)
    coarse = coarser[0]
    if coarse.grid.begins:
        coarse.states.start.copy_(fine.states.c_points[coarse.grid.start])
    _from_coarsest(coarser, nested=nested, finest=False)
    correct(fine, coarse)
    f_relax(fine, full_intervals_only=fine.grid.reverse)
    if nested and not finest:
        v_cycle(levels, f_points_current=True)


def _corrected(levels: Sequence[Level]) -> None:
    """The constant guess, F-relaxed and corrected once: one cycle, but for its C-relaxation."""
    fine, *coarser = levels
    _constant(fine, before_restriction=True)
    restrict(fine, coarser[0])
    v_cycle(coarser)
    correct(fine, coarser[0])
    f_relax(fine)
