"""Ranks under MPI, by mpi4py."""

import functools
import hashlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lpgpu.comm import departure
from lpgpu.comm.communicator import Arrival, Communicator
from lpgpu.comm.standstill import Standstill, limit
from lpgpu.comm.transport import (
    Incoming,
    Outgoing,
    cuda_support,
    host_buffer,
    say_that_states_are_staged,
    synchronise,
)

T = TypeVar("T")

_STATE, _GOODBYE, _WAITING = 0, 1, 2  # tags
_CHECK_EVERY = 0.1  # seconds of waiting between looks whether a neighbour has gone
_HALF = (torch.float16, torch.bfloat16)


def mpi_communicator(comm: Any) -> "MPICommunicator":
    """The solver's communicator for an mpi4py one: a duplicate, made once and kept with it. Collective."""
    key = _attribute_key()
    found = comm.Get_attr(key)
    if found is None:
        found = MPICommunicator(_duplicate(comm))
        comm.Set_attr(key, found)
    return found


def _duplicate(comm: Any) -> Any:
    """A communicator of the same ranks with messages of its own.

    Raises:
        RuntimeError: when some rank does not ask for it within LPGPU_MPI_TIMEOUT seconds.
    """
    duplicate, request = comm.Idup()
    began = time.perf_counter()
    while not request.Test():
        time.sleep(0.001)
        if time.perf_counter() - began > limit():
            raise RuntimeError(
                f"a network with comm was made on rank {comm.Get_rank()} of {comm.Get_size()}, but not on all of them, "
                f"for {limit():g} s (LPGPU_MPI_TIMEOUT)"
            )
    return duplicate


@functools.cache
def _attribute_key() -> int:
    from mpi4py import MPI

    return MPI.Comm.Create_keyval()


class MPICommunicator:
    """See `Communicator`. Copies of a network share it; a pickled network comes back without.

    Attributes:
        seconds_waited, cpu_seconds_waited: time spent in waiting for other ranks, since the start.
    """

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self.seconds_waited = self.cpu_seconds_waited = 0.0
        self._sending: deque[tuple[Any, Outgoing]] = deque()
        _check_thread_level()
        departure.end_the_job_on_failure(*_in_world())
        self._departure = departure.Departure(comm, _GOODBYE)
        self._standstill, self._waits = Standstill(comm, _WAITING), 0
        # one rank without keeps all from it: blocking and non-blocking collectives do not mix
        self._direct = all(self.allgather(torch.cuda.is_available() and cuda_support().aware))

    def send(self, state: Tensor, to: int) -> None:
        while self._sending and self._sending[0][0].Test():
            self._sending.popleft()
        outgoing = Outgoing(state, direct=self._goes_directly(state))
        self._sending.append((self._comm.Isend(outgoing.buffer, to, _STATE), outgoing))

    def receive(self, like: Tensor, source: int) -> Arrival:
        incoming = Incoming(like, direct=self._goes_directly(like))
        return _Arrival(self, self._comm.Irecv(incoming.buffer, source, _STATE), incoming)

    def sum(self, value: Tensor) -> Tensor:
        if value.dtype in _HALF:
            return self.sum(value.float()).to(value.dtype)
        if self._goes_directly(value):
            total = value.detach().clone(memory_format=torch.contiguous_format)
            synchronise(total)
            self._meet()
            self._comm.Allreduce(_in_place(), total)
            return total
        total = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        self.wait(self._comm.Iallreduce(_in_place(), total.numpy()))
        return total.to(value.device)

    def broadcast(self, value: Tensor, root: int) -> Tensor:
        if self._goes_directly(value):
            copy = value.detach().clone(memory_format=torch.contiguous_format)
            synchronise(copy)
            self._meet()
            self._comm.Bcast(copy.reshape(-1).view(torch.uint8), root)
            return copy
        copy = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        self.wait(self._comm.Ibcast(host_buffer(copy), root))
        return copy.to(value.device)

    def allgather(self, value: T) -> list[T]:
        self._meet()
        return self._comm.allgather(value)

    def agree(self, check: Callable[[], object], facts: Callable[[], Mapping[str, Any]]) -> None:
        error: Exception | None = None
        here: dict[str, str] = {}
        try:
            check()
            here = {name: str(fact) for name, fact in facts().items()}
        except Exception as raised:
            error = raised
        if self._same_everywhere(-1 if error else _digest(here)):
            return
        reports = self.allgather((here, None if error is None else f"{type(error).__name__}: {error}"))
        if error is not None:
            raise error
        raise ValueError(_difference(reports))

    def reversed(self) -> "Communicator":
        return _Reversed(self)

    def wait(self, request: Any) -> None:
        """Wait for an MPI request, as long as the neighbours are there and not all wait; Ctrl-C is heard."""
        if request.Test():
            return
        began = last_look = time.perf_counter()
        cpu_began = time.thread_time()
        while not request.Test():
            time.sleep(0)  # lets another process have the core
            if time.perf_counter() - last_look > _CHECK_EVERY:
                self._departure.check()
                self._standstill.check(self._waits, began)
                last_look = time.perf_counter()
        self._departure.waited_in_vain()
        self._waits += 1
        self.seconds_waited += time.perf_counter() - began
        self.cpu_seconds_waited += time.thread_time() - cpu_began

    def _meet(self) -> None:
        """Wait for all ranks, so that a blocking call after it does not."""
        self.wait(self._comm.Ibarrier())

    def _goes_directly(self, tensor: Tensor) -> bool:
        if tensor.device.type == "cuda" and not self._direct:
            say_that_states_are_staged()
        return tensor.device.type == "cuda" and self._direct

    def _same_everywhere(self, digest: int) -> bool:
        bounds = np.array([digest, -digest], dtype=np.int64)
        self.wait(self._comm.Iallreduce(_in_place(), bounds, _minimum()))
        return bounds[0] == -bounds[1] != -1

    def __deepcopy__(self, memo: object) -> "MPICommunicator":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Detached, (self.rank, self.size)


class _Arrival:
    def __init__(self, communicator: MPICommunicator, request: Any, incoming: Incoming) -> None:
        self._communicator = communicator
        self._request = request
        self._incoming = incoming

    def wait(self) -> Tensor:
        self._communicator.wait(self._request)
        return self._incoming.tensor()


class _Reversed:
    """The ranks of a communicator in the opposite order."""

    def __init__(self, communicator: MPICommunicator) -> None:
        self._communicator = communicator
        self.size = communicator.size
        self.rank = self._opposite(communicator.rank)

    def send(self, state: Tensor, to: int) -> None:
        self._communicator.send(state, self._opposite(to))

    def receive(self, like: Tensor, source: int) -> Arrival:
        return self._communicator.receive(like, self._opposite(source))

    def sum(self, value: Tensor) -> Tensor:
        return self._communicator.sum(value)

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


class Detached:
    """What is left of a communicator in a network that was pickled: rank and size."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(
            f"this network was pickled on rank {self.rank} of {self.size}, and its communicator was not. Build it anew "
            "with a communicator, and carry its weights over by lpgpu.full_state_dict and load_full_state_dict"
        )


def _digest(facts: Mapping[str, str]) -> int:
    return int.from_bytes(hashlib.sha256(repr(sorted(facts.items())).encode()).digest()[:7], "little")


def _difference(reports: list[tuple[dict[str, str], str | None]]) -> str:
    """Which rank failed, or which fact differs between which ranks."""
    failed = next((f"rank {rank}: {error}" for rank, (_, error) in enumerate(reports) if error), None)
    if failed:
        return failed
    named = reports[0][0]
    differing = [name for name in named if len({here.get(name) for here, _ in reports}) > 1]
    values = (
        f"{name} is " + ", ".join(f"{here.get(name)} on rank {rank}" for rank, (here, _) in enumerate(reports[:8]))
        for name in differing
    )
    return "ranks differ in what must be the same on all of them: " + "; ".join(values)


def _in_world() -> tuple[int, int]:
    from mpi4py import MPI

    return MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()


def _check_thread_level() -> None:
    """On a GPU, backward calls MPI from autograd's own thread, while the main one waits for it: one call at a time."""
    from mpi4py import MPI

    if torch.cuda.is_available() and MPI.Query_thread() < MPI.THREAD_SERIALIZED:
        raise RuntimeError(
            "MPI was initialised without support for calls from several threads, but on a GPU backward calls it from a "
            'thread of its own. Let mpi4py initialise it, or set mpi4py.rc.thread_level = "serialized" or "multiple"'
        )


def _in_place() -> Any:
    from mpi4py import MPI

    return MPI.IN_PLACE


def _minimum() -> Any:
    from mpi4py import MPI

    return MPI.MIN
