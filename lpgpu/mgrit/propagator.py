"""Φ, on many layers at once: the one interface between the solver and what it propagates."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor

from lpgpu.kernels.picard import Runs
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms, march
from lpgpu.mgrit.grid import Grid, Window
from lpgpu.mgrit.halo import HaloOf
from lpgpu.mgrit.result import Work
from lpgpu.mgrit.slices import length
from lpgpu.profiling import nvtx_range


class Propagator(ABC):
    """u_target = Φ_k(u_source) + g_target on every level, for whole slices of layers k.

    A subclass supplies `_step`, and `_sweep` too where several steps in one go are cheaper, as in a fused kernel. One
    propagator serves one solve; it counts the evaluations as they happen. On coarse levels `_step` is the rediscretised
    Φ_c; `mgrit.coarse_operator` puts other propagators there.

    Attributes:
        has_diagonal: whether `_step` can give the Jacobian's diagonal, which Δ-correction needs.
        has_decay: whether `_step` can give the decay D, which Picard iterations compose exactly; D = 1 where not.
        preferred: the coarse operator, and its order, that "auto" means.
        prefers_delta: whether `delta="auto"` means on, with rediscretised coarse operators.
        is_free_at_zero: whether `at_zero` costs no evaluation, and an initial guess by it nothing but a scan.
        is_affine: whether this coarse operator has no Φ_c. Its problem, u_target = g + Δ ⊙ (u_source − anchor), is then
            affine, and nothing but a correction of states that there are already.
    """

    has_diagonal = False
    has_decay = False
    preferred: tuple[str, int] = ("rediscretised", 1)
    prefers_delta = False
    is_free_at_zero = False
    is_affine = False

    def __init__(self, num_levels: int) -> None:
        self.work = Work([0] * num_levels)

    def step(self, grid: Grid, layers: slice, u: Tensor, out: Tensor, diagonal: Tensor | None = None) -> None:
        """out_i = Φ_k(u_i) for the layers k of `layers`; all are [layers, ...] and do not overlap.

        `diagonal`, where given, becomes diag(∂Φ_k/∂u) at u_i.
        """
        if not (count := length(layers)):
            return
        self.work.evaluations[grid.level] += count * self.cost(grid)
        with nvtx_range(f"step level {grid.level}"), _naming(grid, layers.start, layers.stop):
            self._step(grid, layers, u, out, diagonal)

    def sweep(self, window: Window, positions: Iterable[int], u: Tensor, terms: Terms = NO_TERMS) -> None:
        """March through `positions` of all the window's intervals at once, in place.

        `u` holds the window's points, [stop − first + 1, ...]; `terms` are those of the window's points and layers.
        """
        sweep = window.sweep(positions)
        if sweep is None:
            if terms.products is not None:
                terms.products.fill_(1)
            return
        self.work.evaluations[window.grid.level] += sweep.evaluations * self.cost(window.grid)
        with nvtx_range(f"sweep level {window.grid.level}"), _naming(window.grid, window.first, window.stop):
            self._sweep(window, sweep, u, terms)

    def depth(self, grid: Grid) -> int:
        """How many dependent evaluations one step of this level takes."""
        return 1

    def cost(self, grid: Grid) -> int:
        """How many evaluations one layer of this level takes."""
        return 1

    def expect_runs(self) -> None:  # noqa: B027
        """Be told that steps of consecutive layers of this level will be asked for, as Picard iterations do."""

    def take_halo(self, halo_of: HaloOf) -> None:
        """Get what steps of the finest layers beyond this rank's own take, which Picard iterations will ask for."""
        raise NotImplementedError(f"{type(self).__name__} cannot step through the layers of other ranks")

    def prefers_wide_steps(self, like: Tensor) -> bool:
        """Whether one step of many layers, with states like `like`, is cheaper than several of fewer layers."""
        return False

    def at_zero(self, window: Window, out: Tensor, diagonal: Tensor) -> None:
        """out = Φ_k(0) and diagonal = diag(∂Φ_k/∂u) there, of the window's layers on the finest level."""
        raise NotImplementedError(f"{type(self).__name__} has no formula at zero")

    def fuses_picard(self, like: Tensor) -> bool:
        """Whether `picard_step` and `picard_sweep` are the way to iterate from states like `like`."""
        return False

    def picard_step(self, runs: Runs, order: int, u: Tensor, out: Tensor) -> None:
        """out = what so many Picard iterations over each run of finest layers make of u; both are [runs, ...]."""
        raise NotImplementedError(f"{type(self).__name__} has no fused Picard step")

    def picard_sweep(self, runs: Runs, order: int, u: Tensor, sweep: Sweep, g: Tensor | None) -> None:
        """March u [runs + 1, ...] in place through a sweep of the runs, each step a `picard_step`, plus g."""
        raise NotImplementedError(f"{type(self).__name__} has no fused Picard sweep")

    @abstractmethod
    def _step(
        self,
        grid: Grid,
        layers: slice,
        u: Tensor,
        out: Tensor,
        diagonal: Tensor | None,
        decay: Tensor | None = None,
    ) -> None: ...

    def _step_in_sweep(self, grid: Grid, layers: slice, u: Tensor, out: Tensor, diagonal: Tensor | None) -> None:
        self._step(grid, layers, u, out, diagonal)

    def _sweep(self, window: Window, sweep: Sweep, u: Tensor, terms: Terms) -> None:
        """One step after the other; `sweep` counts the window's own layers."""

        def phi(layers: slice, source: Tensor, out: Tensor, diagonal: Tensor | None) -> None:
            self._step_in_sweep(window.grid, window.on_grid(layers), source, out, diagonal)

        march(sweep, phi, u, terms)


@contextmanager
def _naming(grid: Grid, first: int, stop: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(
            f"lpgpu: raised while propagating level {grid.level}, layers {grid.of_level(first) * grid.stride} "
            f"to {grid.of_level(stop - 1) * grid.stride} of the network"
        )
        raise
