"""The solver's view of its fellow ranks, and the communicator of a process that has none."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from torch import Tensor

T = TypeVar("T")


class Arrival(Protocol):
    """A state on its way here."""

    def wait(self) -> Tensor:
        """The state, contiguous, as soon as it is there."""
        ...


class Communicator(Protocol):
    """What the solver asks of the processes that share a hierarchy.

    All but `send` and `receive` are collective: every rank calls them, in the same order.
    """

    @property
    def rank(self) -> int:
        """This process, 0 … size − 1, in the order of the layers."""
        ...

    @property
    def size(self) -> int:
        """The number of processes."""
        ...

    def send(self, state: Tensor, to: int) -> None:
        """Send a copy of `state`, without waiting. Messages from one rank to another arrive in order."""
        ...

    def receive(self, like: Tensor, source: int) -> Arrival:
        """Be ready for the next state from `source`, of the shape, dtype and device of `like`, without waiting."""
        ...

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all ranks of a tensor of one shape everywhere; the same, and a new tensor, on every rank."""
        ...

    def broadcast(self, value: Tensor, root: int) -> Tensor:
        """`value` as `root` has it; elsewhere it only gives shape, dtype and device."""
        ...

    def allgather(self, value: T) -> list[T]:
        """The small Python objects of all ranks, by rank."""
        ...

    def agree(self, check: Callable[[], object], facts: Callable[[], Mapping[str, Any]]) -> None:
        """Run `check` here, and compare `facts`, which are to be the same on every rank.

        Raises:
            Exception: what `check` raised, here; a ValueError that names rank and reason where another rank's check
                did, or whose facts differ. All ranks raise, or none does.
        """
        ...

    def reversed(self) -> "Communicator":
        """The same ranks in the opposite order."""
        ...


class SingleProcess:
    """The communicator of one process: rank 0 of 1, and a sum over ranks is the value itself."""

    rank = 0
    size = 1

    def send(self, state: Tensor, to: int) -> None:
        raise ValueError(f"one process has no rank {to} to send to")

    def receive(self, like: Tensor, source: int) -> Arrival:
        raise ValueError(f"one process has no rank {source} to hear from")

    def sum(self, value: Tensor) -> Tensor:
        return value

    def broadcast(self, value: Tensor, root: int) -> Tensor:
        return value

    def allgather(self, value: T) -> list[T]:
        return [value]

    def agree(self, check: Callable[[], object], facts: Callable[[], Mapping[str, Any]]) -> None:
        check()

    def reversed(self) -> "SingleProcess":
        return self


def as_communicator(comm: Any) -> Communicator:
    """The solver's communicator for `comm`, which is None or an mpi4py communicator.

    Raises:
        TypeError: when `comm` is neither.
    """
    if comm is None:
        return SingleProcess()
    if not callable(getattr(comm, "Get_size", None)):
        raise TypeError(f"comm is {type(comm).__name__}; expected None (one process) or an mpi4py communicator")
    if comm.Get_size() == 1:
        return SingleProcess()
    from lpgpu.comm.mpi import mpi_communicator  # noqa: PLC0415: needs mpi4py

    return mpi_communicator(comm)
