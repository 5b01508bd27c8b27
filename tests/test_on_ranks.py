"""The tests of several ranks: those marked mpi(n), each number of ranks in one job.

Without MPI hypothesis draws fewer examples, and training runs on two ranks only: it is the same code above the
communicators. One rank alone has no messages.
"""

import os

import pytest

from tests import launcher

EXAMPLES = {"mpiexec": os.environ.get("LPGPU_TEST_EXAMPLES_MPI", "12"), "torchrun": "2", "forked": "2"}
JOBS = [("mpiexec", 1), *((name, ranks) for ranks in (2, 3, 4, 5) for name in ("mpiexec", "forked"))]


def files(*rooms: str) -> list[str]:
    return [str(path) for room in rooms for path in launcher.ROOT.glob(f"tests/{room}/test_ranks_*")]


def run_tests(name: str, ranks: int, *rooms: str) -> None:
    options = ["-s", "-q", "--timeout=100", "-p", "no:cacheprovider"]
    environment = {"LPGPU_TEST_EXAMPLES": EXAMPLES[name]}
    done = launcher.run(name, ranks, "pytest", *options, *files(*rooms), timeout=400, environment=environment)
    assert done.status == 0, done.everything
    assert " passed" in done.of_ranks[0], done.everything


@pytest.mark.parametrize(("name", "ranks"), JOBS)
def test_on_so_many_ranks(name: str, ranks: int) -> None:
    if refusal := launcher.why_not(name):
        pytest.skip(refusal)
    rooms = ["comm", "nn"] + (["train"] if name == "mpiexec" or ranks == 2 else [])
    run_tests(name, ranks, *rooms, *(["integration"] if name == "forked" else []))


@pytest.mark.parametrize("name", launcher.those_that_start("torchrun"))
def test_under_torchrun(name: str) -> None:
    run_tests(name, 2, "comm")
