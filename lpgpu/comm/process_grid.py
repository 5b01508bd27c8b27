"""Layer × data parallel training: ranks that share a network's layers, and ranks that share its data."""

import os
import platform
from collections.abc import Mapping
from typing import Any, Self

import torch

from lpgpu.comm.choice import as_communicator, free, is_process_group, size_and_rank, split
from lpgpu.comm.freed import refuse_freed
from lpgpu.comm.launcher import launched_local_rank


class ProcessGrid:
    """`comm`'s ranks as data_ranks rows of layer_ranks each. A row holds one network, and every row another batch.

        rank = data_rank · layer_ranks + layer_rank

    Neighbours in layers are neighbours in rank, so that they are on one machine where that can be.

    Attributes:
        layer_rank, layer_ranks, data_rank, data_ranks: this rank's place, and the grid's shape.
        communicator, data_communicator: of all ranks, and of the column, for sums, broadcasts and checks (`agree`) of
            one's own: unlike mpi4py's calls they end when a rank they wait for has ended.
        is_root: whether this is the one rank that prints and writes.
        device: this rank's GPU, chosen by its rank on its machine; "cpu" without one. With a process group it becomes
            the current device, as NCCL needs it.

    Args:
        comm: None, for one process; an mpi4py communicator; or a process group of torch.distributed. Collective.
        layer_ranks: a divisor of its size; None: all of them.

    `layer_comm` and `data_comm` are the grid's own; `free()`, or the end of a `with` statement, frees them.

    >>> grid = ProcessGrid(None)  # under mpiexec: MPI.COMM_WORLD, layer_ranks=4
    >>> grid.layer_ranks, grid.data_ranks, grid.is_root
    (1, 1, True)

    Raises:
        ValueError: when `layer_ranks` is no such number.
    """

    def __init__(self, comm: Any, layer_ranks: int | None = None) -> None:
        size, rank = size_and_rank(comm)
        self.layer_ranks = size if layer_ranks is None else _checked_layer_ranks(layer_ranks, size)
        self.data_ranks = size // self.layer_ranks
        self.data_rank, self.layer_rank = divmod(rank, self.layer_ranks)
        if torch.cuda.is_available() and is_process_group(comm) and launched_local_rank() is not None:
            torch.cuda.set_device(device_of(local_rank(comm)))
        # from now on a failure on one rank ends all
        self.communicator = as_communicator(comm)
        self._comms: tuple[Any, Any] | None = (None, None)
        if comm is not None:
            self._comms = (
                split(comm, self.data_rank, self.layer_rank),
                split(comm, self.layer_rank, self.data_rank),
            )
        as_communicator(self.layer_comm)
        self.data_communicator = as_communicator(self.data_comm)
        self.is_root = rank == 0
        self.device = device_of(local_rank(comm))

    @property
    def layer_comm(self) -> Any:
        """What `comm` is, of this rank's row, for LayerParallel and GRU: an mpi4py communicator or a process group."""
        return self._not_freed()[0]

    @property
    def data_comm(self) -> Any:
        """The one of its column, which has the same layers, for average_gradients."""
        return self._not_freed()[1]

    def free(self) -> None:
        """Free `layer_comm` and `data_comm`; collective over all ranks. A second call does nothing.

        Networks that were made with them, and `data_communicator`, raise when they are used afterwards. `comm` is its
        owner's to free.
        """
        if self._comms is not None:
            row, column = self._comms
            self._comms = None
            free(row)
            free(column)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:  # else other ranks may be elsewhere
            self.free()

    def _not_freed(self) -> tuple[Any, Any]:
        if self._comms is None:
            refuse_freed("this ProcessGrid")
        return self._comms

    def __repr__(self) -> str:
        return (
            f"ProcessGrid(layer rank {self.layer_rank} of {self.layer_ranks}, "
            f"data rank {self.data_rank} of {self.data_ranks}, {self.device})"
        )


def local_rank(comm: Any, environment: Mapping[str, str] = os.environ) -> int:
    """This process's rank among those on its machine: as the launcher says, or counted. Collective if it does not."""
    launched = launched_local_rank(environment)
    if launched is not None:
        return launched
    machines = as_communicator(comm).allgather(platform.node())
    _, rank = size_and_rank(comm)
    return machines[:rank].count(machines[rank])


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
