"""The tests of several ranks: those marked mpi(n), each number of ranks in one job under mpiexec."""

import os

import pytest

from tests import mpi_launcher

pytestmark = pytest.mark.skipif(bool(mpi_launcher.why_not()), reason=mpi_launcher.why_not() or "can be run")
ROOMS = [str(path) for room in ("comm", "nn", "train") for path in mpi_launcher.ROOT.glob(f"tests/{room}/test_ranks_*")]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5])
def test_on_so_many_ranks(ranks: int) -> None:
    options = ["-s", "-q", "--timeout=100", "-p", "no:cacheprovider"]
    environment = {"LPGPU_TEST_EXAMPLES": os.environ.get("LPGPU_TEST_EXAMPLES_MPI", "12")}
    done = mpi_launcher.run(ranks, "pytest", *options, *ROOMS, timeout=400, environment=environment)
    assert done.status == 0, done.everything
    assert " passed" in done.of_ranks[0], done.everything
