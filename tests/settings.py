"""What hypothesis draws for the solver's options, and how many cycles make a solve exact."""

from collections.abc import Sequence
from typing import Any, get_args

from hypothesis import strategies as st

from lpgpu import MGRIT
from lpgpu.mgrit.options import CoarseOperatorName, Cycle, InitialGuess, Relaxation

seeds = st.integers(0, 2**32 - 1)
steps = st.integers(1, 70)
cycle_kinds = st.sampled_from(get_args(Cycle))
relaxations = st.sampled_from(get_args(Relaxation))
OPERATORS = get_args(CoarseOperatorName)
WITH_DIAGONALS = [operator for operator in OPERATORS if operator != "picard"]
"""Those that Δ-correction, or what is like it, goes with."""

VISITS = {"V": lambda level: 1, "F": lambda level: level + 1, "W": lambda level: 2**level}
"""Visits of a level (0: finest) in one cycle. The coarsest is solved once for each visit of the next finer level."""


@st.composite
def solver_options(
    draw: st.DrawFn, *, levels: int = 5, coarsening: tuple[int, int] = (2, 9), operators: Sequence[str] = OPERATORS
) -> dict[str, Any]:
    """Options of `MGRIT` in every combination, without the iterations: up to `levels`, m within `coarsening`."""
    coarser = draw(st.integers(0, levels - 1))
    m = st.integers(*coarsening)
    return {
        "levels": coarser + 1,
        "coarsening": draw(m | st.lists(m, min_size=coarser, max_size=coarser)),
        "relaxation": draw(relaxations | st.lists(relaxations, min_size=coarser, max_size=coarser)),
        "cycle": draw(cycle_kinds),
        "coarse_operator": draw(st.sampled_from(operators)),
        "picard_order": draw(st.integers(1, 3)),
        "initial_guess": draw(st.sampled_from(get_args(InitialGuess))),
        "store": draw(st.sampled_from(["all", "c_points"])),
        "chunk": draw(st.none() | st.integers(1, 6)),
        "min_coarse_steps": draw(st.integers(1, 3)),
    }


def with_delta(options: st.SearchStrategy[dict[str, Any]], choices: Sequence[str]) -> st.SearchStrategy[dict[str, Any]]:
    """`options` with Δ-correction as one of `choices`; Picard operators take none."""

    def joined(options: dict[str, Any], delta: str) -> dict[str, Any]:
        return options | {"delta": "none" if options["coarse_operator"] == "picard" else delta}

    return st.builds(joined, options, st.sampled_from(choices))


def cycles_to_exactness(num_steps: int, options: dict[str, Any]) -> int:
    """⌊N/m⌋ with F-relaxation, half of it (rounded up) with FCF, 0 on a single level."""
    solver = MGRIT(**options)
    finest, *coarser = solver.hierarchy(num_steps).grids
    if not coarser:
        return 0
    return finest.num_coarse_steps if solver.relaxation_per_level[0] == "F" else -(-finest.num_coarse_steps // 2)


def exact_solver(num_steps: int, options: dict[str, Any]) -> MGRIT:
    """The solver with just the cycles that exactness takes, in both directions."""
    cycles = cycles_to_exactness(num_steps, options)
    return MGRIT(**options, iterations=cycles, adjoint_iterations=cycles)


@st.composite
def blocks_of(draw: st.DrawFn, *, ranks: tuple[int, int] = (1, 9), layers: int = 14) -> list[int]:
    """The layers of each of some ranks: ragged, or all alike."""
    sizes = st.integers(1, layers)
    count = draw(st.integers(*ranks))
    ragged = st.lists(sizes, min_size=count, max_size=count)
    return draw(ragged | sizes.map(lambda size: [size] * count))
