"""The ranks of a training run: which of them share the layers of a network, which the examples of a batch.

    mpiexec -n 8 lpgpu train … --data-ranks 2      # two networks side by side, each on four ranks
    torchrun --nproc-per-node 8 -m lpgpu train … --data-ranks 2

All ranks run the same program and take the same decisions. What only one of them may do, print and write, is done by
the root and told to the others.
"""

import math
from collections.abc import Callable
from functools import cache
from itertools import zip_longest
from typing import Any, TypeVar

from torch import Tensor, nn

from lpgpu import ProcessGrid, average_gradients
from lpgpu.comm import as_communicator
from lpgpu.comm.choice import size_and_rank
from lpgpu.comm.launcher import world_of_launcher
from lpgpu.data import DataError
from lpgpu.train.setup.errors import InputError
from lpgpu.train.setup.words import counted

T = TypeVar("T")


class Ranks:
    """A process grid, as training uses it.

    Attributes:
        grid: the grid; one process is a grid of 1 × 1.
    """

    def __init__(self, grid: ProcessGrid):
        self.grid = grid

    @property
    def is_root(self) -> bool:
        """Whether this is the rank that prints and writes."""
        return self.grid.is_root

    @property
    def alone(self) -> bool:
        """Whether there is one process only."""
        return self.grid.layer_ranks * self.grid.data_ranks == 1

    @property
    def seconds_waited(self) -> float:
        """What this rank has spent on waiting for others, since the start."""
        comms = (self.grid.layer_comm, self.grid.data_comm)
        return sum(as_communicator(comm).seconds_waited for comm in comms)

    def from_root(self, call: Callable[[], T]) -> T:
        """What `call` returns on the root, on every rank; an InputError or DataError there is raised on all."""
        outcome: tuple[T | None, Exception | None] = (None, None)
        if self.is_root:
            try:
                outcome = call(), None
            except (InputError, DataError) as error:
                outcome = None, error
        value, error = self.grid.communicator.allgather(outcome)[0]
        if error is not None:
            raise error
        return value  # pyright: ignore[reportReturnType]

    def share(self, steps: int) -> range:
        """Which of `steps` layers, or time steps, this rank has: as even a cut as can be.

        Raises `InputError` when there are fewer than ranks that share them.
        """
        ranks, rank = self.grid.layer_ranks, self.grid.layer_rank
        if steps < ranks:
            raise InputError(
                f"{ranks} ranks cannot share {counted(steps, 'layer')} (or time steps); take fewer --layer-ranks"
            )
        each, more = divmod(steps, ranks)
        first = rank * each + min(rank, more)
        return range(first, first + each + (rank < more))

    def shard(self, chosen: Tensor) -> tuple[Tensor, float]:
        """This data rank's examples of a batch, and their weight: its mean loss counts so much in the mean of all.

        Where there are fewer examples than data ranks, some ranks take one that does not count.
        """
        ranks, rank = self.grid.data_ranks, self.grid.data_rank
        mine = chosen[rank::ranks]
        if len(mine):
            return mine, len(mine) * ranks / len(chosen)
        return chosen[:1], 0.0

    def norms_over_data(self, norms: list[float]) -> list[float]:
        """Norms over the examples of all data ranks, of norms over this one's: √Σ‖·‖². The same on every rank."""
        of_all = self.grid.communicator.allgather(norms)[:: self.grid.layer_ranks]
        return [math.hypot(*each) for each in zip_longest(*of_all, fillvalue=0.0)]

    def average_gradients(self, network: nn.Module) -> None:
        """Replace every gradient by its mean over the data ranks."""
        average_gradients(network, self.grid.data_comm)

    def mean_loss(self, loss: Tensor, weight: float) -> float:
        """A batch's mean loss, of that of these examples and their weight: the root's figure on all ranks."""
        mean = self.mean_over_data(weight * loss.detach())
        return self.from_root(lambda: float(mean))

    def mean_over_data(self, value: Tensor) -> Tensor:
        """The mean over the data ranks."""
        return self.sum_over_data(value) / self.grid.data_ranks

    def sum_over_data(self, value: Tensor) -> Tensor:
        """The sum over the data ranks."""
        return self.grid.data_communicator.sum(value)


@cache
def ranks_of(layer_ranks: int, data_ranks: int) -> Ranks:
    """The ranks of this job, `layer_ranks` (0: all that `data_ranks` leave) × `data_ranks` of them.

    Raises `InputError` where that is not how many there are.
    """
    world = _world()
    size, _ = size_and_rank(world)
    if size % data_ranks or layer_ranks not in (0, size // data_ranks):
        here = f"{'is' if size == 1 else 'are'} {counted(size, 'rank')}"
        raise InputError(
            f"layer_ranks is {layer_ranks or 'all'}, data_ranks is {data_ranks}, but there {here}; "
            "their product must be that (mpiexec -n N lpgpu train …, or torchrun)"
        )
    return Ranks(ProcessGrid(world, layer_ranks=size // data_ranks) if size > 1 else ProcessGrid(None))


def _world() -> Any:
    """All processes of this job; None for a process on its own, where MPI is not even imported."""
    try:
        return world_of_launcher()
    except ImportError as error:
        raise InputError(f"started by an MPI launcher, but MPI cannot be imported: {error}") from error
