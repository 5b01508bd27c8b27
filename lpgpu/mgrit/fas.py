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
from lpgpu.mgrit.slices import length


def restrict(fine: Level, coarse: Level) -> Tensor:
    """Pose the coarse problem from the relaxed fine states; ‖r‖² over the fine C-points that this rank steps onto.

    One evaluation of Φ at each C-point serves the residual, g^c and Δ.
    """
    grid, states = fine.grid, fine.states
    phi, diagonal = _phi_onto_c_points(fine)
    inject(fine, coarse)
    layers, own = coarse.grid.all_layers, _of_own_intervals(fine, coarse)
    coarse.g = torch.zeros_like(coarse.states.u)
    coarse_phi = coarse.g[coarse.grid.targets(layers)]
    v = coarse.states.u[coarse.grid.sources(layers)]
    coarse_diagonal = None if diagonal is None else torch.empty_like(v)
    coarse.propagator.step(coarse.grid, layers, v, coarse_phi, coarse_diagonal)
    coarse.propagator.work.sequential_depth += max(0, coarse.propagator.depth(coarse.grid) - 1)  # beside one Φ
    squared_norm = fas.restrict_(coarse_phi, phi, states.c_points[grid.c_targets], own.start)
    if diagonal is not None and coarse_diagonal is not None:
        products = _products_over_intervals(fine, coarse, diagonal)
        coarse.delta = Delta(products - coarse_diagonal, v.clone())
        if grid.reverse:
            fine.products = None  # the adjoint problem is linear: its Jacobians, and so Δ, stay as they are
    elif coarse.delta is not None:
        coarse.delta = Delta(coarse.delta.values, v.clone())
    return squared_norm


def residual_norm(level: Level) -> Tensor:
    """‖r‖² over the C-points that this rank steps onto."""
    phi, _ = _phi_onto_c_points(level)
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


def _phi_onto_c_points(level: Level) -> tuple[Tensor, Tensor | None]:
    """Φ(u) + g at the C-points, from the F-point before each, and the diagonal of its Jacobian where Δ asks for it.

    Forward, the end of an interval that ends on a rank above comes last.
    """
    grid, states = level.grid, level.states
    sources = states.c_sources
    phi = torch.empty_like(sources)
    diagonal = None if level.products is None else torch.empty_like(sources)
    level.propagator.step(grid, grid.c_layers, sources, phi, diagonal)
    level.deepen(1)
    if level.delta is not None:
        level.delta.correct_(phi, grid.c_layers, sources)
        if diagonal is not None:
            diagonal += level.delta.values[grid.c_layers]
    states.release_sources()
    if level.g is not None:
        phi += level.g[grid.targets(grid.c_layers)]
    if not grid.reverse:
        end = bring_home(level, phi[0] if len(phi) else None, lambda phi: phi)
        phi = phi if end is None else torch.cat([phi, end[None]])
    return phi, diagonal


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
