"""The solver's view of its fellow ranks, and the communicator of a process that has none."""

from typing import Any, Protocol

from torch import Tensor


class Communicator(Protocol):
    """What the solver asks of the processes that share a hierarchy."""

    @property
    def rank(self) -> int:
        """This process, 0 … size − 1, in the order of the layers."""
        ...

    @property
    def size(self) -> int:
        """The number of processes."""
        ...

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all ranks of a tensor of one shape everywhere; the same on every rank."""
        ...


class SingleProcess:
    """The communicator of one process: rank 0 of 1, and a sum over ranks is the value itself."""

    rank = 0
    size = 1

    def sum(self, value: Tensor) -> Tensor:
        return value


def as_communicator(comm: Any) -> Communicator:
    """The solver's communicator for `comm`, which is None or an mpi4py communicator.

    Raises:
        TypeError: when `comm` is neither.
        NotImplementedError: when `comm` has more than one rank: layer blocks across ranks are not built yet.
    """
    if comm is None:
        return SingleProcess()
    if not callable(getattr(comm, "Get_size", None)):
        raise TypeError(f"comm is {type(comm).__name__}; expected None (one process) or an mpi4py communicator")
    if comm.Get_size() > 1:
        raise NotImplementedError(
            f"comm has {comm.Get_size()} ranks; this version propagates on one process. Pass comm=None, "
            "or a communicator of one rank such as MPI.COMM_SELF"
        )
    return SingleProcess()
