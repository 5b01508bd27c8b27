"""Ranks as threads of one process: the solver on any number of ranks, without MPI."""

import copy
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from lpgpu.comm import Communicator
from lpgpu.comm.communicator import Arrived

T = TypeVar("T")
PATIENCE = 20.0  # seconds without a message: something hangs


class _World:
    def __init__(self, size: int) -> None:
        self.size = size
        self.queues = {(p, q): queue.Queue[Tensor]() for p in range(size) for q in range(size)}
        self.meeting = threading.Barrier(size, timeout=PATIENCE)
        self.gathered: list[Any] = [None] * size


class _Arrival:
    def __init__(self, source: queue.Queue[Tensor], like: Tensor) -> None:
        self.source = source
        self.like = like

    def wait(self) -> Tensor:
        state = self.source.get(timeout=PATIENCE)
        if (state.shape, state.dtype) != (self.like.shape, self.like.dtype):
            raise TypeError(f"received {state.dtype} {state.shape}, expected {self.like.dtype} {self.like.shape}")
        return state


class ThreadRank:
    """One rank's communicator; notes every message's size and where it goes."""

    seconds_waited = 0.0

    def __init__(self, world: _World, rank: int) -> None:
        self.world = world
        self.rank = rank
        self.size = world.size
        self.sent: list[tuple[int, int]] = []

    def send(self, state: Tensor, to: int) -> None:
        self.sent.append((to, state.numel() * state.element_size()))
        self.world.queues[self.rank, to].put(state.detach().clone())

    def receive(self, like: Tensor, source: int) -> _Arrival:
        return _Arrival(self.world.queues[source, self.rank], like)

    def sum(self, value: Tensor) -> Tensor:
        return torch.stack(self.allgather(value.detach().clone())).sum(0)

    def begin_sum(self, value: Tensor) -> Arrived:
        return Arrived(self.sum(value))

    def broadcast(self, value: Tensor, root: int) -> Tensor:
        return self.allgather(value.detach().clone())[root].clone()

    def allgather(self, value: T) -> list[T]:
        self.world.gathered[self.rank] = value
        self.world.meeting.wait()
        everything = list(self.world.gathered)
        self.world.meeting.wait()
        return everything

    def agree(self, check: Callable[[], object], facts: Callable[[], Mapping[str, Any]]) -> None:
        check()

    def reversed(self) -> Communicator:
        other = copy.copy(self)
        other.rank = self.size - 1 - self.rank
        return other


def on_ranks(size: int, work: Callable[[ThreadRank], T]) -> list[T]:
    """What `work` returns on each of `size` ranks.

    Raises:
        Exception: the first that a rank raised.
    """
    world = _World(size)
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadRank(world, rank))
        except BaseException as error:
            errors.append(error)
            world.meeting.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    left = [pair for pair, messages in world.queues.items() if not messages.empty()]
    if left:
        raise RuntimeError(f"messages that nobody received: {left}")
    return results
