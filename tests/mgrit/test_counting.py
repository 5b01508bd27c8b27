"""Work that is counted without doing any is that of the solve itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpgpu import MGRIT, Serial
from lpgpu.mgrit.counting import Counts, count_work
from tests.mgrit.problems import Problem
from tests.settings import solver_options

pytestmark = pytest.mark.filterwarnings("ignore::lpgpu.DivergenceWarning")


@given(
    num_steps=st.integers(1, 60),
    options=solver_options(levels=4),
    operator=st.sampled_from(["rediscretised", "picard", "linear"]),
    order=st.integers(1, 3),
    cycles=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    sources=st.booleans(),
)
def test_counts_are_those_of_the_solve(num_steps, options, operator, order, cycles, sources):
    chosen = {"coarse_operator": operator, "picard_order": order}
    solver = MGRIT(**{**options, **chosen}, iterations=cycles[0], adjoint_iterations=cycles[1])
    counts = count_work(solver, num_steps, sources=sources, has_diagonal=True)
    results = [Problem(num_steps, reverse=back, sources=sources and back).solve(solver)[1] for back in (False, True)]
    assert counts.forward_depth == results[0].sequential_depth
    assert counts.adjoint_depth == results[1].sequential_depth
    assert counts.evaluations == sum(sum(result.evaluations) for result in results)


def test_serial_propagation():
    assert count_work(Serial(), 9) == Counts(forward_depth=9, adjoint_depth=9, evaluations=18)
