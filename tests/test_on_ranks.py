"""The tests of several ranks: those marked mpi(n), each number of ranks in one job.

On process groups hypothesis draws fewer examples, and not every room is run with every number of ranks: it is the same
code above the communicators.
"""

import os

import pytest

from tests import launcher


def files(*patterns: str) -> list[str]:
    """Of tests of several ranks."""
    return [str(path) for pattern in patterns for path in sorted(launcher.ROOT.glob(f"tests/{pattern}.py"))]


EVERYTHING = files("comm/test_ranks_*", "nn/test_ranks_*", "train/test_ranks_*")
KINDS = ("gru", "layer_parallel")
TRAINED = "tests/train/test_ranks_runs.py::test_any_number_of_ranks_trains_the_same_network"
ON_PROCESS_GROUPS = {
    2: [*files("comm/test_ranks_*", "nn/test_ranks_*", "integration/test_ranks_*"), f"{TRAINED}[layers]"],
    3: files("comm/test_ranks_*", "nn/test_ranks_[agl]*"),
    4: [*files("comm/test_ranks_*", "nn/test_ranks_training", "integration/test_ranks_*"), f"{TRAINED}[data]"],
    5: [f"tests/nn/test_ranks_{kind}.py::test_outputs_and_gradients_are_those_of_one_process" for kind in KINDS],
}


def run_tests(name: str, ranks: int, tests: list[str], examples: str) -> None:
    options = ["-s", "-q", "--timeout=100", "-p", "no:cacheprovider"]
    environment = {"LPGPU_TEST_EXAMPLES": examples}
    done = launcher.run(name, ranks, "pytest", *options, *tests, timeout=400, environment=environment)
    assert done.status == 0, done.everything
    assert " passed" in done.of_ranks[0], done.everything


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", launcher.those_that_start("mpiexec"))
def test_on_so_many_ranks(name: str, ranks: int) -> None:
    run_tests(name, ranks, EVERYTHING, os.environ.get("LPGPU_TEST_EXAMPLES_MPI", "12"))


@pytest.mark.parametrize("ranks", ON_PROCESS_GROUPS)
@pytest.mark.parametrize("name", launcher.those_that_start("forked"))
def test_on_process_groups(name: str, ranks: int) -> None:
    run_tests(name, ranks, ON_PROCESS_GROUPS[ranks], "2")


@pytest.mark.parametrize("name", launcher.those_that_start("torchrun"))
def test_under_torchrun(name: str) -> None:
    run_tests(name, 2, files("comm/test_ranks_communicator"), "2")
