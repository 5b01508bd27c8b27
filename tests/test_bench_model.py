"""The cost model of layer-parallel training counts as the solver does."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lpgpu import MGRIT
from lpgpu.mgrit.counting import count_work
from tests.comm.threads import on_ranks
from tests.mgrit.problems import Problem


@pytest.fixture(autouse=True)
def bench_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "bench"))


SOLVERS = [
    {"levels": 1},
    {"levels": 3, "coarsening": 4},
    {"levels": 3, "coarsening": (4, 2), "relaxation": ("F", "FCF"), "iterations": 1, "adjoint_iterations": 0},
    {"levels": 4, "coarsening": 2, "cycle": "F", "relaxation": "F"},
    {"levels": 4, "coarsening": 3, "cycle": "W", "iterations": 3},
    {"levels": 3, "coarsening": 4, "coarse_operator": "picard", "picard_order": 2},
    {"levels": 3, "coarsening": 2, "coarse_operator": "picard", "picard_order": 3, "cycle": "F"},
    {"levels": 3, "coarsening": 4, "coarse_operator": "linear", "iterations": 6, "adjoint_iterations": 6},
]


@pytest.mark.parametrize("options", SOLVERS, ids=str)
@pytest.mark.parametrize("steps", [64, 77])
@pytest.mark.parametrize("sources", [False, True])
def test_the_model_is_as_deep_as_the_solver(options: dict[str, Any], steps: int, sources: bool) -> None:
    from model import depth_of  # pyright: ignore[reportMissingImports]
    from model_machines import Work  # pyright: ignore[reportMissingImports]

    solver = MGRIT(**({"coarse_operator": "rediscretised"} | options))
    assert depth_of(Work("", steps, 0, has_sources=sources), solver) == count_work(solver, steps, sources=sources).depth


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_model_sends_what_the_first_rank_of_a_linear_solve_does(ranks: int, reverse: bool) -> None:
    from model_machines import UNIT, Work  # pyright: ignore[reportMissingImports]
    from model_solve import ModelledSolve  # pyright: ignore[reportMissingImports]

    solver = MGRIT(levels=2, coarsening=2, coarse_operator="linear", iterations=3, adjoint_iterations=3)
    modelled = ModelledSolve(
        Work("", 4 * ranks, 0), replace(UNIT, overhead=0, adjoint_overhead=0, latency=1), solver, ranks, adjoint=reverse
    )
    modelled.run(3)
    problem = Problem(4 * ranks, reverse=reverse)
    results = on_ranks(ranks, lambda rank: problem.solve_here(solver, [4] * ranks, rank)[1])
    assert modelled.total == results[-1 if reverse else 0].messages > 0


def test_the_model_of_gpus_has_every_series_at_every_number_of_ranks() -> None:
    """The depth of a linear solve does not depend on how deep the network is, and its row says so."""
    from model import RANKS, projected  # pyright: ignore[reportMissingImports]
    from model_machines import SERIES  # pyright: ignore[reportMissingImports]

    rows = projected()
    assert len(rows) == 2 * len(RANKS) * sum(len(series) for series in SERIES.values())
    for row in rows:
        assert row["seconds"] > 0 and row["depth"] > 0
    linear = {(row["work"], row["depth"]) for row in rows if row["series"].startswith("linear")}
    assert len(linear) == len(SERIES)
