"""The full approximation scheme: residual, coarse problem, correction (METHODS.md section 1).

r_K       = Φ(u_{Km−1}) + g_{Km} − u_{Km}
v_K       = u_{Km}                                              (injection)
g^c_{K+1} = Φ(u_{(K+1)m−1}) + g_{(K+1)m} − Φ_c(u_{Km})
"""

import torch
from torch import Tensor

from lpgpu.kernels import fas
from lpgpu.mgrit.exchange import global_sum
from lpgpu.mgrit.level import Level


def restrict(fine: Level, coarse: Level) -> Tensor:
    """Pose the coarse problem from the relaxed fine states; ‖r‖² over the fine C-points, summed over ranks.

    One evaluation of Φ at each C-point serves the residual and g^c.
    """
    grid, states = fine.grid, fine.states
    phi = torch.empty_like(states.c_sources)
    fine.propagator.step(grid, grid.c_layers, states.c_sources, phi)
    fine.deepen(1)
    if fine.g is not None:
        phi += fine.g[grid.targets(grid.c_layers)]
    squared_norm = fas.residual_norm(phi, states.c_points[grid.c_targets])

    inject(fine, coarse)
    layers = coarse.grid.all_layers
    targets = coarse.grid.targets(layers)
    if coarse.g is None:
        coarse.g = torch.zeros_like(states.c_points)
    v = states.c_points[coarse.grid.sources(layers)]
    coarse_phi = coarse.g[targets]
    coarse.propagator.step(coarse.grid, layers, v, coarse_phi)  # beside the residual's Φ: it deepens nothing
    fas.coarse_right_hand_side_(coarse_phi, phi[: coarse.grid.num_steps])
    return global_sum(fine.communicator, squared_norm)


def inject(fine: Level, coarse: Level) -> None:
    """v_K = u_{Km}."""
    coarse.states.u.copy_(fine.states.c_points)


def correct(fine: Level, coarse: Level) -> None:
    """u_{Km} ← u_{Km} + (v_K − u_{Km}), which is v_K: injection and correction are each other's inverse."""
    fine.states.c_points.copy_(coarse.states.u)
