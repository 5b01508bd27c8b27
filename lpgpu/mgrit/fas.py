"""The full approximation scheme: residual, coarse problem, correction (Falgout et al. 2014).

r_K       = Φ(u_{Km−1}) + g_{Km} − u_{Km}
v_K       = u_{Km}                                              (injection)
g^c_{K+1} = Φ(u_{(K+1)m−1}) + g_{(K+1)m} − Φ_c(u_{Km})
"""

import torch
from torch import Tensor

from lpgpu.kernels import fas
from lpgpu.mgrit.delta import Delta
from lpgpu.mgrit.exchange import bring_home, refresh_c_points
from lpgpu.mgrit.level import Level
from lpgpu.mgrit.slices import length, parts_of


def restrict(fine: Level, coarse: Level) -> Tensor:
    """Pose the coarse problem from the relaxed fine states; ‖r‖² over the fine C-points that this rank steps onto.

    One evaluation of Φ at each C-point serves the residual, g^c and Δ.
    """
    arrivals, phi, diagonal = _phi_onto_c_points(fine)
    inject(fine, coarse)
    v = coarse.states.u[coarse.grid.sources(coarse.grid.all_layers)]
    coarse_diagonal = None if diagonal is None else torch.empty_like(v)
    if fine.states.width is None:
        squared_norm = _pose(fine, coarse, phi, coarse_diagonal)
    else:
        squared_norm = _pose_in_place(fine, coarse, arrivals, phi, coarse_diagonal)
    coarse.propagator.work.sequential_depth += max(0, coarse.propagator.depth(coarse.grid) - 1)  # beside one Φ
    if diagonal is not None and coarse_diagonal is not None:
        products = _products_over_intervals(fine, coarse, diagonal)
        coarse.delta = Delta(products - coarse_diagonal, v.clone())
        if fine.grid.reverse:
            fine.products = None  # the adjoint problem is linear: its Jacobians, and so Δ, stay as they are
    elif coarse.delta is not None:
        coarse.delta.anchors.copy_(v)
    return squared_norm


def residual_norm(level: Level) -> Tensor:
    """‖r‖² over the C-points that this rank steps onto."""
    _, phi, _ = _phi_onto_c_points(level)
    grid = level.grid
    return fas.residual_norm(phi[: length(grid.c_layers)], level.states.c_points[grid.c_targets])


def inject(fine: Level, coarse: Level) -> None:
    """v_K = u_{Km}."""
    u, v = fine.states.c_points, coarse.states.u
    here = min(len(u), len(v))
    v[:here] = u[:here]
    if fine.grid.reverse:
        end = bring_home(fine, u[0] if len(u) else None, lambda lam: lam)
        if end is not None and len(v):
            v[-1] = end


def correct(fine: Level, coarse: Level) -> None:
    """u_{Km} ← u_{Km} + (v_K − u_{Km}), which is v_K: injection and correction are each other's inverse."""
    u, v = fine.states.c_points, coarse.states.u
    here = min(len(u), len(v))
    u[:here] = v[:here]
    coarse.g = None
    refresh_c_points(fine, coarse)


def _pose(fine: Level, coarse: Level, phi: Tensor, coarse_diagonal: Tensor | None) -> Tensor:
    """Set the coarse level's g^c, and `coarse_diagonal`; ‖r‖². `phi` as of `_phi_onto_c_points`."""
    layers = coarse.grid.all_layers
    coarse.g = torch.zeros_like(coarse.states.u)
    coarse_phi = coarse.g[coarse.grid.targets(layers)]
    v = coarse.states.u[coarse.grid.sources(layers)]
    coarse.propagator.step(coarse.grid, layers, v, coarse_phi, coarse_diagonal)
    u = fine.states.c_points[fine.grid.c_targets]
    return fas.restrict_(coarse_phi, phi, u, _of_own_intervals(fine, coarse).start)


def _pose_in_place(fine: Level, coarse: Level, arrivals: Tensor, phi: Tensor, coarse_diagonal: Tensor | None) -> Tensor:
    """As `_pose`, a few coarse layers at a time: g^c_{K+1} takes the memory of Φ(u_{(K+1)m−1})."""
    u, grid = fine.states.c_points[fine.grid.c_targets], coarse.grid
    squared_norm = fas.residual_norm(phi[: len(u)], u)
    first = _of_own_intervals(fine, coarse).start + grid.reverse
    coarse.g = arrivals[first : first + grid.local_points]
    if grid.takes_part:
        coarse.g[grid.start] = 0
    right_hand_side = coarse.g[grid.targets(grid.all_layers)]
    v = coarse.states.u[grid.sources(grid.all_layers)]
    for layers, rows in parts_of(grid.all_layers, fine.states.width):
        coarse_phi = torch.empty_like(v[rows])
        diagonal = None if coarse_diagonal is None else coarse_diagonal[rows]
        coarse.propagator.step(grid, layers, v[rows], coarse_phi, diagonal)
        right_hand_side[rows] -= coarse_phi
    return squared_norm


def _phi_onto_c_points(level: Level) -> tuple[Tensor, Tensor, Tensor | None]:
    """Φ(u) + g at the C-points, from the F-point before each, and the diagonal of its Jacobian where Δ asks for it.

    Forward, the end of an interval that ends on a rank above comes last. Φ lies in the first of the three tensors, from
    the row 1 on (`States.take_arrivals`).
    """
    grid, states = level.grid, level.states
    sources, arrivals = states.c_sources, states.take_arrivals()
    phi = arrivals[1:-1]
    diagonal = None if level.products is None else torch.empty_like(phi)
    for layers, rows in parts_of(grid.c_layers, states.width):
        source = sources[rows] if states.width is None else sources[rows].clone()  # Φ is written where the source is
        of_diagonal = None if diagonal is None else diagonal[rows]
        level.propagator.step(grid, layers, source, phi[rows], of_diagonal)
        if level.delta is not None:
            level.delta.correct_(phi[rows], layers, source)
            if of_diagonal is not None:
                of_diagonal += level.delta.values[layers]
    level.deepen(1)
    if level.g is not None:
        phi += level.g[grid.targets(grid.c_layers)]
    if not grid.reverse:
        end = bring_home(level, phi[0] if len(phi) else None, lambda phi: phi)
        if end is not None:
            arrivals[-1] = end
            phi = arrivals[1:]
    return arrivals, phi, diagonal


def _products_over_intervals(fine: Level, coarse: Level, diagonal: Tensor) -> Tensor:
    """Π_j diag(∂Φ_j/∂u) over the m layers of each coarse layer's interval: F-layers' `products` times `diagonal`.

    What the last rank of an interval has of its factors is multiplied, on its way home, by those of ranks it passes.
    """
    grid, pieces = fine.grid, fine.products
    if pieces is None:
        raise ValueError("the products of the Jacobians' diagonals were not taken")
    own = None
    if length(grid.c_points) and grid.head:
        own = pieces[0] if grid.reverse else pieces[0] * diagonal[0]
    from_above = bring_home(fine, own, lambda factor: pieces[0] * factor)

    diagonal = diagonal[_of_own_intervals(fine, coarse)]
    begun_below = int(grid.head > 0)
    products = pieces[begun_below : begun_below + coarse.grid.local_steps]
    if from_above is None or not len(products):
        return products * diagonal
    products = products.clone()
    products[: len(diagonal)] *= diagonal
    products[-1] *= from_above
    return products


def _of_own_intervals(fine: Level, coarse: Level) -> slice:
    """Which of the fine C-layers end this rank's coarse layers: not that of an interval begun below, when forward."""
    begun_below = int(fine.grid.head > 0 and not fine.grid.reverse)
    return slice(begun_below, begun_below + coarse.grid.local_steps)
