"""One rank of a job: runs a program, or tests (`pytest …`), with its output in a file of its own."""

import os
import runpy
import sys
from pathlib import Path

from lpgpu.comm.launcher import launched_by, launched_rank


def keep_output() -> None:
    """Standard output and error go to the rank's file."""
    path = Path(os.environ["LPGPU_RANK_OUTPUT"]) / str(launched_rank())
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)


def end_the_job() -> None:
    """End all ranks."""
    if launched_by() == "MPI":
        from mpi4py import MPI

        MPI.COMM_WORLD.Abort(1)
    os._exit(1)  # torchrun ends the others


def main() -> None:
    """Run what the arguments say."""
    keep_output()
    sys.argv = sys.argv[1:]
    if sys.argv[0] == "pytest":
        import pytest

        # all ranks must draw the same examples, as they do where no seed is given
        seed = os.environ.get("LPGPU_TEST_SEED")
        sys.exit(pytest.main([*([] if seed is None else [f"--hypothesis-seed={seed}"]), *sys.argv[1:]]))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
