"""The full approximation scheme: residual, coarse problem, correction (Falgout et al. 2014).

r_K       = Φ(u_{Km−1}) + g_{Km} − u_{Km}
v_K       = u_{Km}                                              (injection)
g^c_{K+1} = Φ(u_{(K+1)m−1}) + g_{(K+1)m} − Φ_c(u_{Km})
"""

import torch
from torch import Tensor

from lpgpu.kernels import fas
from lpgpu.mgrit.delta import Delta
from lpgpu.mgrit.exchange import global_sum
from lpgpu.mgrit.level import Level


def restrict(fine: Level, coarse: Level) -> Tensor:
    """Pose the coarse problem from the relaxed fine states; ‖r‖² over the fine C-points, summed over ranks.

    One evaluation of Φ at each C-point serves the residual, g^c and Δ.
    """
    grid, states = fine.grid, fine.states
    phi, diagonal = _phi_onto_c_points(fine)
    squared_norm = fas.residual_norm(phi, states.c_points[grid.c_targets])

    inject(fine, coarse)
    layers = coarse.grid.all_layers
    if coarse.g is None:
        coarse.g = torch.zeros_like(states.c_points)
    coarse_phi = coarse.g[coarse.grid.targets(layers)]
    v = coarse.states.u[coarse.grid.sources(layers)]
    coarse_diagonal = None if diagonal is None else torch.empty_like(v)
    # beside the residual's Φ: it deepens nothing
    coarse.propagator.step(coarse.grid, layers, v, coarse_phi, coarse_diagonal)
    fas.coarse_right_hand_side_(coarse_phi, phi[: coarse.grid.num_steps])
    if fine.products is not None and diagonal is not None and coarse_diagonal is not None:
        products = fine.products[layers] * diagonal[layers]
        coarse.delta = Delta(products - coarse_diagonal, v.clone())
        if grid.reverse:
            fine.products = None  # the adjoint problem is linear: its Jacobians, and so Δ, stay as they are
    elif coarse.delta is not None:
        coarse.delta = Delta(coarse.delta.values, v.clone())
    return global_sum(fine.communicator, squared_norm)


def inject(fine: Level, coarse: Level) -> None:
    """v_K = u_{Km}."""
    coarse.states.u.copy_(fine.states.c_points)


def correct(fine: Level, coarse: Level) -> None:
    """u_{Km} ← u_{Km} + (v_K − u_{Km}), which is v_K: injection and correction are each other's inverse."""
    fine.states.c_points.copy_(coarse.states.u)


def _phi_onto_c_points(level: Level) -> tuple[Tensor, Tensor | None]:
    """Φ(u) + g at the C-points, from the F-point before each, and the diagonal of its Jacobian where Δ asks for it."""
    grid, sources = level.grid, level.states.c_sources
    phi = torch.empty_like(sources)
    diagonal = None if level.products is None else torch.empty_like(sources)
    level.propagator.step(grid, grid.c_layers, sources, phi, diagonal)
    level.deepen(1)
    if level.delta is not None:
        level.delta.correct_(phi, grid.c_layers, sources)
        if diagonal is not None:
            diagonal += level.delta.values[grid.c_layers]
    if level.g is not None:
        phi += level.g[grid.targets(grid.c_layers)]
    return phi, diagonal
