"""Models on several ranks leave no communicators and no tensors behind. Run by tests/test_on_ranks.py."""

import pytest
import torch
import torch.distributed as dist

from lpgpu import GRU, MGRIT, LayerParallel
from lpgpu.comm.choice import is_process_group
from lpgpu.nn import DenseBlock
from tests.nn.ranks import COMM
from tests.nn.test_leaks import assert_flat, step

pytestmark = pytest.mark.mpi(2)

SOLVER = MGRIT(levels=2, coarsening=2, iterations=1, adjoint_iterations=1)


def communicators() -> int:
    """The handle that the next communicator of MPI gets, or how many process groups there are."""
    if is_process_group(COMM):
        return len(dist.distributed_c10d._world.pg_map)  # pyright: ignore[reportPrivateImportUsage]
    duplicate = COMM.Dup()
    handle = duplicate.py2f()
    duplicate.Free()
    return handle


def test_forty_models() -> None:
    x, sequence = torch.randn(2, 8), torch.randn(3, 2, 8)

    def run() -> None:
        step(LayerParallel(COMM, lambda: DenseBlock(8), 3, 1.0, solver=SOLVER, buffer=(1, 1)), x)
        step(GRU(8, 4, comm=COMM, solver=SOLVER), sequence)

    run()
    before = communicators()
    assert_flat(run, 20, warm_up=3)
    assert communicators() == before
