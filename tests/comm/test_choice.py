"""What may be passed as `comm`, and what is said of the rest."""

import os

import pytest
import torch.distributed as dist

from lpgpu import LayerParallel, ProcessGrid
from lpgpu.comm import SingleProcess, as_communicator
from lpgpu.comm.launcher import launched_by, launched_local_rank, launched_rank
from lpgpu.nn import DenseBlock


@pytest.fixture
def own_group(tmp_path):
    """The process group of this process alone."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield dist.group.WORLD
    if dist.is_initialized():
        dist.destroy_process_group()


def test_a_group_of_one_process_is_one_process(own_group) -> None:
    assert isinstance(as_communicator(own_group), SingleProcess)
    grid = ProcessGrid(own_group)
    assert (grid.layer_ranks, grid.data_ranks, grid.is_root) == (1, 1, True)


def test_a_group_that_was_destroyed(own_group) -> None:
    dist.destroy_process_group()
    with pytest.raises(ValueError, match="destroyed"):
        as_communicator(own_group)


def test_a_group_without_this_process(own_group) -> None:
    with pytest.raises(ValueError, match="a process group without this process"):
        as_communicator(dist.GroupMember.NON_GROUP_MEMBER)


@pytest.mark.parametrize("comm", ["gloo", 2, object()])
def test_what_is_no_communicator(comm) -> None:
    with pytest.raises(TypeError, match=r"expected None .* mpi4py communicator or a process group.*mesh.get_group"):
        LayerParallel(comm, lambda: DenseBlock(3), 4, 1.0)


def test_a_job_whose_group_was_not_initialised(monkeypatch: pytest.MonkeyPatch) -> None:
    """There torch.distributed.group.WORLD is None, and each process would have a network of its own."""
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.warns(RuntimeWarning, match="job of 2 processes.*init_process_group"):
        as_communicator(dist.group.WORLD)


TORCHRUN = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "localhost"}
SRUN = {"SLURM_PROCID": "3", "SLURM_STEP_ID": "0", "SLURM_LOCALID": "2"}


class TestLaunchers:
    def test_they_say_the_rank(self) -> None:
        assert (launched_by(TORCHRUN), launched_rank(TORCHRUN)) == ("torch.distributed", 5)
        assert (launched_by(SRUN), launched_rank(SRUN)) == ("MPI", 3)
        assert launched_local_rank(TORCHRUN) == 1
        assert launched_local_rank(SRUN) == 2
        assert launched_rank({"OMPI_COMM_WORLD_RANK": "7"}) == 7

    def test_torchrun_may_have_been_started_by_srun(self) -> None:
        both = {**SRUN, **TORCHRUN}
        assert (launched_by(both), launched_rank(both), launched_local_rank(both)) == ("torch.distributed", 5, 1)

    @pytest.mark.parametrize("environment", [{}, {"SLURM_PROCID": "0"}, {"RANK": "3"}], ids=str)
    def test_a_process_on_its_own(self, environment: dict[str, str]) -> None:
        assert launched_by(environment) is launched_rank(environment) is None

    def test_this_process_is_one(self) -> None:
        assert launched_by(os.environ) is None
