"""How to propagate: `MGRIT` (inexactly, all layers at once), `Parareal` (its simplest form), `Serial` (exactly)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from lpgpu.mgrit.hierarchy import Hierarchy
from lpgpu.mgrit.partition import Partition

Relaxation = Literal["F", "FCF"]
Cycle = Literal["V", "F", "W"]
CudaGraph = Literal["auto", True, False]
CoarseOperatorName = Literal["auto", "rediscretised", "picard", "linear"]
InitialGuess = Literal["coarse", "nested", "constant"]


@dataclass(frozen=True)
class Serial:
    """Exact propagation, layer after layer, through the same interface: the oracle, and the choice for inference.

    Attributes:
        cuda_graph: as of `MGRIT`.

    >>> len(Serial().hierarchy(256).grids)
    1

    Raises:
        ValueError: where that is none of "auto", True, False.
    """

    cuda_graph: CudaGraph = field(default="auto", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        _one_of("cuda_graph", self.cuda_graph, get_args(CudaGraph))

    def hierarchy(self, num_steps: int, partition: Partition | None = None) -> Hierarchy:
        """The single grid of `num_steps` layers, which ranks may share."""
        return Hierarchy.build(num_steps, (), partition=partition)

    def is_exact_for(self, num_steps: int) -> bool:
        """Whether a forward solve of so many layers ends with their exact states: always."""
        return True


@dataclass(frozen=True, kw_only=True)
class MGRIT:
    """Multigrid reduction in time (Falgout et al., SIAM J. Sci. Comput. 36, 2014), full approximation scheme.

    >>> solver = MGRIT(levels=3, coarsening=(8, 4), iterations=2, relaxation=("FCF", "F"))
    >>> len(solver.hierarchy(256).grids)
    3

    Attributes:
        levels: the most levels to use; fewer where `min_coarse_steps` stops the coarsening. 1 is serial propagation.
        coarsening: m, every how many layers a C-point lies; one int, or `levels − 1` of them, finest first.
        iterations, adjoint_iterations: cycles of the forward and of the adjoint solve; with a tolerance, the most.
            0 leaves the initial guess.
        relaxation: "F", or "FCF" (twice the work, faster convergence); one, or `levels − 1` of them, finest first.
        cycle: "V"; "F", which visits the coarse levels once more on the way up; or "W", which visits each of them
            twice from every visit of the next finer one.
        tolerance, adjoint_tolerance: stop a solve once the 2-norm of the residual at the C-points is at most this times
            the first one. None: always run all iterations.
        min_coarse_steps: no grid gets fewer layers than this.
        coarse_operator: what a coarse step is. "rediscretised": the interval's first layer with the step m Δt.
            "picard": `picard_order` Picard iterations over all layers of the interval, evaluated at once. "linear": the
            fine layers' linearisation (Jacobian diagonals, or 1), solved by a scan on two levels, whatever `levels`
            says; no coarse layer is evaluated. "auto": what docs/experiments/coarse_operators.md found best on trained
            weights of this kind of layer: "picard" of order 1, for a GRU "rediscretised" with Δ; always "rediscretised"
            with `delta="diagonal"`, and where it would be "picard" with `store="c_points"`, whose memory that needs.
        picard_order: p of "picard", at least 1: a coarse step is p evaluations deep, and exact from p = m on; that of
            an adjoint with `store="c_points"` is not.
        delta: Δ-correction of a rediscretised operator by Jacobian diagonals: "diagonal" (where the layers offer it),
            "none", or "auto": on for gated recurrent cells, off elsewhere. With "linear" it says whether the diagonals
            are taken ("auto": where the layers offer them). "picard" takes none.
        initial_guess: "coarse": the coarsest grid's solution, injected and F-relaxed level by level; "nested": the
            same, with a V-cycle on every level but the finest; "constant": the input everywhere (adjoint: zero).
            With "linear", which has no coarse solution, the first two are: the time steps of a GRU linearised at h = 0,
            where its gates take no product, solved by a scan; other layers start from the constant guess.
        final_residual: whether to take the residual after the last cycle too (⌊N/m⌋ more evaluations, none where the
            tolerance was met), for `SolveResult.final_residual`.
        store: what a forward solve keeps for the adjoint: "all" states, or "c_points" only, about m times fewer, the
            rest being recomputed where it is needed. The adjoint's coarse steps of "picard" are then linearised at the
            C-points, so that its cycles reduce the error by other factors; to what they converge is the same.
        chunk: how many intervals are swept (and, with "c_points", recomputed) at a time. None: all at once with "all";
            with "c_points" ¾ N (1 − 3/m) / (2m + 8), at least one, which takes less memory than a checkpoint for every
            layer (docs/models.md); fewer take less, more are faster where a device has room for more layers at once.
            Of as many coarse layers a Picard step evaluates the fine ones at a time.
        on_divergence: "warn" or "raise" when a solve ends non-finite, or, of two cycles or more, with a residual that
            grew or is as large as its states. With one cycle there is no reduction to look at: whether its accuracy is
            enough is seen against `Serial()`, or from more cycles.
        cuda_graph: whether solves on a GPU are replayed from CUDA graphs, from the second of equal shapes on, which
            spares the host hundreds of launches. "auto": those of `DenseBlock`, `ConvBlock` and `GRU`, on one process
            and without a tolerance; True: an error where that cannot be; False: never. The memory of up to 8 solves
            stays in use.

    Raises:
        ValueError: naming the field, what came and what was expected.
    """

    levels: int = 3
    coarsening: int | Sequence[int] = 4
    iterations: int = 2
    adjoint_iterations: int = 1
    relaxation: Relaxation | Sequence[Relaxation] = "FCF"
    cycle: Cycle = "V"
    tolerance: float | None = None
    adjoint_tolerance: float | None = None
    min_coarse_steps: int = 2
    coarse_operator: CoarseOperatorName = "auto"
    picard_order: int = 1
    delta: Literal["none", "diagonal", "auto"] = "auto"
    initial_guess: InitialGuess = "coarse"
    final_residual: bool = False
    store: Literal["all", "c_points"] = "all"
    chunk: int | None = None
    on_divergence: Literal["warn", "raise"] = "warn"
    cuda_graph: CudaGraph = "auto"

    def __post_init__(self) -> None:
        _at_least("levels", self.levels, 1)
        _at_least("iterations", self.iterations, 0)
        _at_least("adjoint_iterations", self.adjoint_iterations, 0)
        _at_least("min_coarse_steps", self.min_coarse_steps, 1)
        _at_least("picard_order", self.picard_order, 1)
        if not isinstance(self.final_residual, bool):
            raise ValueError(f"final_residual is {self.final_residual!r}; expected True or False")
        if self.chunk is not None:
            _at_least("chunk", self.chunk, 1)
        for name in ("tolerance", "adjoint_tolerance"):
            value = getattr(self, name)
            is_number = isinstance(value, float | int) and not isinstance(value, bool)
            if value is not None and not (is_number and 0 <= value < math.inf):
                raise ValueError(f"{name} is {value!r}; expected None or a finite number ≥ 0")
        for name, allowed in _CHOICES.items():
            _one_of(name, getattr(self, name), allowed)
        if self.cuda_graph is True and not (self.tolerance is None and self.adjoint_tolerance is None):
            raise ValueError(
                "cuda_graph is True, but a tolerance waits for the device at every cycle, as a CUDA graph cannot; "
                'use a fixed number of iterations (tolerance=None), or cuda_graph="auto"'
            )
        if self.coarse_operator == "picard" and self.delta == "diagonal":
            raise ValueError('delta is "diagonal", which coarse_operator="picard" does not take; use "auto" or "none"')
        for name in ("coarsening", "relaxation"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))  # frozen means hashable too
        for m in _values("coarsening", self.coarsening, int, self.levels - 1):
            _at_least("coarsening", m, 2)
        for relaxation in _values("relaxation", self.relaxation, str, self.levels - 1):
            if relaxation not in get_args(Relaxation):
                expected = " or ".join(map(repr, get_args(Relaxation)))
                raise ValueError(f"relaxation is {relaxation!r}; expected {expected}")

    @property
    def coarsening_per_level(self) -> tuple[int, ...]:
        """m of each level but the coarsest, finest first."""
        return (self.coarsening,) * (self.levels - 1) if isinstance(self.coarsening, int) else tuple(self.coarsening)

    @property
    def relaxation_per_level(self) -> tuple[Relaxation, ...]:
        """The relaxation of each level but the coarsest, finest first."""
        relaxation = self.relaxation
        return (relaxation,) * (self.levels - 1) if isinstance(relaxation, str) else tuple(relaxation)  # pyright: ignore

    def hierarchy(self, num_steps: int, partition: Partition | None = None) -> Hierarchy:
        """The grids of a network of `num_steps` layers, which ranks may share."""
        return Hierarchy.build(num_steps, self.coarsening_per_level, self.min_coarse_steps, partition)

    def is_exact_for(self, num_steps: int) -> bool:
        """Whether a forward solve of so many layers ends with their exact states: by enough cycles, or on one level.

        A cycle carries exactness over one interval of m layers with F-relaxation, over two with FCF; the first interval
        has it from the start.

        >>> MGRIT(levels=2, coarsening=4, iterations=1).is_exact_for(8), MGRIT(coarsening=4).is_exact_for(64)
        (True, False)
        """
        finest, *coarser = self.hierarchy(num_steps).grids
        passed = self.iterations * (2 if coarser and self.relaxation_per_level[0] == "FCF" else 1)
        return not coarser or (passed + 1) * finest.interval > num_steps


def Parareal(*, coarsening: int = 4, iterations: int = 2, **options) -> MGRIT:
    """Parareal (Lions, Maday & Turinici 2001): two-level MGRIT with F-relaxation. `options`: MGRIT's others.

    >>> Parareal(coarsening=16).relaxation
    'F'
    """
    return MGRIT(levels=2, relaxation="F", coarsening=coarsening, iterations=iterations, **options)


Solver = MGRIT | Serial

_CHOICES = {
    "cycle": get_args(Cycle),
    "coarse_operator": get_args(CoarseOperatorName),
    "delta": ("none", "diagonal", "auto"),
    "initial_guess": get_args(InitialGuess),
    "store": ("all", "c_points"),
    "on_divergence": ("warn", "raise"),
    "cuda_graph": get_args(CudaGraph),
}


def _one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, allowed))}")


def _at_least(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} is {value!r}; expected an integer ≥ {least}")
    if value < least:
        raise ValueError(f"{name} is {value}; expected at least {least}")


def _values(name: str, value: object, scalar: type, count: int) -> tuple:
    """The values of an option that is one, or one for each level but the coarsest."""
    if isinstance(value, scalar):
        return (value,)
    if not isinstance(value, Sequence) or len(value) != count:
        raise ValueError(f"{name} is {value!r}; expected one value, or {count} of them (levels − 1), finest first")
    return tuple(value)
