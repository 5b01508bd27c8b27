"""Layer × data parallel training: ranks that share a network's layers, and ranks that share its data."""

import os
from collections.abc import Mapping
from typing import Any

import torch

from lpgpu.comm.choice import as_communicator

# set by Open MPI, Slurm, MPICH (Hydra), Intel MPI and others: the rank among those of one machine
_LOCAL_RANK = (
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "SLURM_LOCALID",
    "MPI_LOCALRANKID",
    "PMI_LOCAL_RANK",
    "MV2_COMM_WORLD_LOCAL_RANK",
)


class ProcessGrid:
    """`comm`'s ranks as data_ranks rows of layer_ranks each. A row holds one network, and every row another batch.

        rank = data_rank · layer_ranks + layer_rank

    Neighbours in layers are neighbours in rank, so that they are on one machine where that can be.

    Attributes:
        layer_comm: the mpi4py communicator of this rank's row, for LayerParallel and GRU.
        data_comm: the one of its column, which has the same layers, for average_gradients.
        layer_rank, layer_ranks, data_rank, data_ranks: this rank's place, and the grid's shape.
        communicator, data_communicator: of all ranks, and of the column, for sums, broadcasts and checks (`agree`) of
            one's own: unlike mpi4py's calls they end when a rank they wait for has ended.
        is_root: whether this is the one rank that prints and writes.
        device: this rank's GPU, chosen by its rank on its machine; "cpu" without one.

    Args:
        comm: None, for one process, or an mpi4py communicator. Collective.
        layer_ranks: a divisor of its size; None: all of them.

    Raises:
        ValueError: when `layer_ranks` is no such number.
    """

    def __init__(self, comm: Any, layer_ranks: int | None = None) -> None:
        size, rank = (1, 0) if comm is None else (comm.Get_size(), comm.Get_rank())
        self.layer_ranks = size if layer_ranks is None else _checked_layer_ranks(layer_ranks, size)
        self.data_ranks = size // self.layer_ranks
        self.data_rank, self.layer_rank = divmod(rank, self.layer_ranks)
        self.layer_comm: Any = None
        self.data_comm: Any = None
        if comm is not None:
            self.layer_comm = comm.Split(self.data_rank, self.layer_rank)
            self.data_comm = comm.Split(self.layer_rank, self.data_rank)
        # from now on a failure on one rank ends all
        self.communicator, self.data_communicator = as_communicator(comm), as_communicator(self.data_comm)
        as_communicator(self.layer_comm)
        self.is_root = rank == 0
        self.device = device_of(local_rank(comm))

    def __repr__(self) -> str:
        return (
            f"ProcessGrid(layer rank {self.layer_rank} of {self.layer_ranks}, "
            f"data rank {self.data_rank} of {self.data_ranks}, {self.device})"
        )


def local_rank(comm: Any, environment: Mapping[str, str] = os.environ) -> int:
    """This process's rank among those on its machine: as the launcher says, or counted. Collective if it does not."""
    for name in _LOCAL_RANK:
        if environment.get(name, "").isdigit():
            return int(environment[name])
    if comm is None or comm.Get_size() == 1:
        return 0
    from mpi4py import MPI

    on_this_machine = comm.Split_type(MPI.COMM_TYPE_SHARED)
    rank = on_this_machine.Get_rank()
    on_this_machine.Free()
    return rank


def device_of(local_rank: int) -> torch.device:
    """The GPU of a local rank, several ranks taking turns on too few; the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def _checked_layer_ranks(layer_ranks: int, size: int) -> int:
    if isinstance(layer_ranks, bool) or not isinstance(layer_ranks, int):
        raise ValueError(f"layer_ranks is {layer_ranks!r}; expected an integer that divides the {size} ranks")
    if layer_ranks < 1 or size % layer_ranks:
        divisors = ", ".join(str(n) for n in range(1, size + 1) if size % n == 0)
        raise ValueError(f"layer_ranks is {layer_ranks}, there are {size} ranks; expected one of {divisors}")
    return layer_ranks
