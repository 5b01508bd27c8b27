"""Which solvers `tune` may try, and in which order.

A *family* is an operator on a grid with a relaxation; its members differ in their cycles alone, and more cycles come
nearer to exact propagation at more cost. In every family the member that is sought is the one with the fewest cycles
within the aim; where it is expected follows from the errors of those tried, at a factor of ten a member. The family
whose expected member is cheapest comes next, until nothing is left that is cheaper than the best one so far.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from lpgpu.mgrit import MGRIT

CYCLES = ((0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (4, 4), (6, 6))
OPERATORS: tuple[dict[str, Any], ...] = (
    {"coarse_operator": "picard", "picard_order": 1},
    {"coarse_operator": "picard", "picard_order": 2},
    {"coarse_operator": "picard", "picard_order": 3},
    {"coarse_operator": "linear"},
    {"coarse_operator": "rediscretised"},
)
FALL = 10.0
UNTRIED = 2

Cost = Callable[[MGRIT], float]


@dataclass
class Family:
    """The members of one family that were tried: errors by their place in `CYCLES`."""

    solver: MGRIT
    errors: dict[int, float] = field(default_factory=dict)

    @property
    def operator(self) -> tuple[str, int]:
        """The coarse operator and its order: families of the same one are expected to need as many cycles."""
        return self.solver.coarse_operator, self.solver.picard_order

    def member(self, place: int) -> MGRIT:
        """The solver at this place of `CYCLES`."""
        forward, adjoint = CYCLES[place]
        return replace(self.solver, iterations=forward, adjoint_iterations=adjoint)

    def open_places(self, aim: float) -> range:
        """Where the member that is sought may still be: beyond those that failed, before those within the aim."""
        failed = max((place for place, error in self.errors.items() if not error <= aim), default=-1)
        within = min((place for place, error in self.errors.items() if error <= aim), default=len(CYCLES))
        return range(failed + 1, within)

    def expected(self, aim: float) -> float:
        """The place of the member that is sought, as far as the latest errors tell; infinite where there is no hope."""
        place, error = list(self.errors.items())[-1]
        if not math.isfinite(error) or self._stagnates(aim):
            return math.inf
        return place + math.log(max(error, 1e-16) / aim) / math.log(FALL)

    def _stagnates(self, aim: float) -> bool:
        """Whether more cycles did not halve the error."""
        tried = sorted(self.errors.items())
        return any(b > aim and b > 0.5 * a for (_, a), (_, b) in pairwise(tried))


def families(num_steps: int, base: MGRIT) -> Iterator[Family]:
    """All families for a network of `num_steps` layers; options other than these are those of `base`."""
    for levels, m in _grids(num_steps):
        for operator in OPERATORS:
            linear = operator["coarse_operator"] == "linear"
            if operator.get("picard_order", 0) >= m or (linear and levels > 2):
                continue
            for relaxation in ("F", "FCF"):
                options = {"picard_order": 1, **operator, "relaxation": relaxation}
                yield Family(replace(base, levels=levels, coarsening=m, delta="auto", tolerance=None, **options))


def _grids(num_steps: int) -> Iterator[tuple[int, int]]:
    """(levels, m), with at least two coarse steps: m = 2, 4, 8, … on two levels, 4 on up to five, 2 and 8 on three."""
    m = 2
    while 2 * m <= num_steps:
        for levels in range(2, {2: 3, 4: 5, 8: 3}.get(m, 2) + 1):
            if 2 * m ** (levels - 1) <= num_steps:
                yield levels, m
        m *= 2


class Search:
    """The families that are left, and what comes next."""

    def __init__(self, all_families: list[Family], aim: float) -> None:
        self.families = all_families
        self.aim = aim

    def next(self, cost: Cost, limit: float) -> tuple[Family, int] | None:
        """The family and the place of its member to try next; None where nothing is left below `limit`."""
        expected = {operator: self._expected_of(operator) for operator in {each.operator for each in self.families}}
        coming: list[tuple[float, Family, int]] = []
        for family in self.families:
            places = family.open_places(self.aim)
            place = family.expected(self.aim) if family.errors else expected[family.operator]
            if math.isfinite(place) and len(places):
                chosen = min(max(math.ceil(place), places[0]), places[-1])
                coming.append((cost(family.member(chosen)), family, chosen))
        below = [each for each in coming if each[0] < limit]
        self.families = [family for _, family, _ in below]
        _, family, place = min(below, key=lambda each: each[0], default=(0.0, None, 0))
        return None if family is None else (family, place)

    def _expected_of(self, operator: tuple[str, int]) -> float:
        """Of a family that has not been tried: as the median of those tried with this operator."""
        places = sorted(
            family.expected(self.aim) for family in self.families if family.errors and family.operator == operator
        )
        finite = [place for place in places if math.isfinite(place)]
        return finite[len(finite) // 2] if finite else UNTRIED
