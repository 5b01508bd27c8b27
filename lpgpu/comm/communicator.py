"""The solver's view of its fellow ranks, and the communicator of a process that has none."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor

T = TypeVar("T")


class Arrival(Protocol):
    """A state on its way here."""

    def wait(self) -> Tensor:
        """The state, contiguous, as soon as it is there."""
        ...


@dataclass(frozen=True)
class Arrived:
    """An `Arrival` that is there."""

    state: Tensor

    def wait(self) -> Tensor:
        return self.state


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

    @property
    def seconds_waited(self) -> float:
        """The time that this process has spent in waiting for others, since the start."""
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

    def begin_sum(self, value: Tensor) -> Arrival:
        """Begin a `sum` without waiting for it, where that is possible; not of half precision."""
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
    seconds_waited = 0.0

    def send(self, state: Tensor, to: int) -> None:
        raise ValueError(f"one process has no rank {to} to send to")

    def receive(self, like: Tensor, source: int) -> Arrival:
        raise ValueError(f"one process has no rank {source} to hear from")

    def sum(self, value: Tensor) -> Tensor:
        return value

    def begin_sum(self, value: Tensor) -> Arrival:
        return Arrived(value)

    def broadcast(self, value: Tensor, root: int) -> Tensor:
        return value

    def allgather(self, value: T) -> list[T]:
        return [value]

    def agree(self, check: Callable[[], object], facts: Callable[[], Mapping[str, Any]]) -> None:
        check()

    def reversed(self) -> "SingleProcess":
        return self
