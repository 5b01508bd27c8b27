"""Where the first cycle starts from."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lpgpu.kernels.affine_scan.operators import affine_scan
from lpgpu.mgrit.cycle import v_cycle
from lpgpu.mgrit.exchange import arrive_at_start, given_state
from lpgpu.mgrit.fas import correct, restrict
from lpgpu.mgrit.level import Level
from lpgpu.mgrit.relaxation import f_relax, first_f_relax, solve_serially, sweep_short_interval


def initial_guess(levels: Sequence[Level], kind: str) -> None:
    """Fill the finest level's states from its given point, and F-relax.

    "constant": the given state at every C-point; for the adjoint, zero.
    "coarse": the coarsest level's serial solution, injected and F-relaxed level by level. An adjoint with sources of
    its own (`g`: the loss sees states between) or with a Δ-correction starts from zero instead, is F-relaxed, and
    corrected once: so the coarse grid hears of sources at F-points too, and is the corrected one from the start. A
    linear coarse operator, which has no solution of its own, starts so too: from the layers linearised at zero where
    that is free (`Propagator.is_free_at_zero`) and `kind` is not "constant", else from the given state.
    """
    finest = levels[0]
    if finest.is_coarsest:
        solve_serially(finest)
    elif levels[1].propagator.is_affine:
        _corrected(levels, from_zero=finest.propagator.is_free_at_zero and kind != "constant")
    elif kind == "constant":
        _constant(finest)
    elif finest.grid.reverse and (finest.g is not None or finest.products is not None):
        _corrected(levels, from_zero=False)
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


def _corrected(levels: Sequence[Level], *, from_zero: bool) -> None:
    """A guess, F-relaxed and corrected once: one cycle, but for its C-relaxation.

    The guess is the constant one, or `from_zero` the layers linearised at zero.
    """
    fine, *coarser = levels
    if from_zero:
        _linearised_at_zero(fine)
        first_f_relax(fine, before_restriction=True)
    else:
        _constant(fine, before_restriction=True)
    restrict(fine, coarser[0])
    v_cycle(coarser)
    correct(fine, coarser[0])
    f_relax(fine)


def _linearised_at_zero(level: Level) -> None:
    """u_target = Φ_k(0) + diag(∂Φ_k/∂u)(0) ⊙ u_source + g_target: quasi-Newton from zero, by one scan over all layers.

    Ranks scan from zero, exchange their maps, and scan again.
    """
    if not level.grid.takes_part:
        return
    if level.communicator.size > 1:
        if not level.grid.begins:
            level.states.start.zero_()
        arrive_at_start(level, _scan_from_zero(level))
    _scan_from_zero(level)


def _scan_from_zero(level: Level) -> Tensor:
    """March the linearised layers from this rank's start; the product of their diagonals."""
    grid, product = level.grid, torch.ones_like(level.states.start)
    for window in sorted(level.states.windows(), key=lambda window: window.first, reverse=grid.reverse):
        with level.states.open(window) as u:
            like = u[:-1]
            phi, diagonal = torch.empty_like(like), torch.empty_like(like)
            level.propagator.at_zero(window, phi, diagonal)
            if level.g is not None:
                g = level.g[window.points]
                phi += g[:-1] if grid.reverse else g[1:]
            anchors = torch.zeros_like(like[:1]).expand_as(like)
            affine_scan(u[None], phi[None], anchors[None], diagonal[None], grid.reverse)
            product *= diagonal.prod(0)
    return product
