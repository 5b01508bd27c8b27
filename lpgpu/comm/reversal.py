"""The ranks of a communicator in the opposite order, for a solve that marches from the last layer to the first."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor

from lpgpu.comm.communicator import Arrival, Communicator

T = TypeVar("T")


class Reversed:
    """Rank r of `size` is rank size − 1 − r of `communicator`."""

    def __init__(self, communicator: Communicator) -> None:
        self._communicator = communicator
        self.size = communicator.size
        self.rank = self._opposite(communicator.rank)

    @property
    def seconds_waited(self) -> float:
        return self._communicator.seconds_waited

    def send(self, state: Tensor, to: int) -> None:
        self._communicator.send(state, self._opposite(to))

    def receive(self, like: Tensor, source: int) -> Arrival:
        return self._communicator.receive(like, self._opposite(source))

    def sum(self, value: Tensor) -> Tensor:
        return self._communicator.sum(value)

    def begin_sum(self, value: Tensor) -> Arrival:
        return self._communicator.begin_sum(value)

    def broadcast(self, value: Tensor, root: int) -> Tensor:
        return self._communicator.broadcast(value, self._opposite(root))

    def allgather(self, value: T) -> list[T]:
        return self._communicator.allgather(value)[::-1]

    def agree(self, check: Callable[[], object], facts: Callable[[], Mapping[str, Any]]) -> None:
        self._communicator.agree(check, facts)

    def reversed(self) -> Communicator:
        return self._communicator

    def _opposite(self, rank: int) -> int:
        return self.size - 1 - rank
