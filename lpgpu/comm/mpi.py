"""Ranks under MPI, by mpi4py."""

import functools
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from lpgpu.comm import agreement
from lpgpu.comm.communicator import Arrival, Arrived, Communicator
from lpgpu.comm.detached import Detached
from lpgpu.comm.failure import end_the_job_on_failure
from lpgpu.comm.freed import Freed
from lpgpu.comm.mpi_job import MPIJob, MPINotices
from lpgpu.comm.reversal import Reversed
from lpgpu.comm.transport import (
    Incoming,
    Outgoing,
    cuda_support,
    host_buffer,
    say_that_states_are_staged,
    synchronise,
)
from lpgpu.comm.watchdog import Watchdog, limit

T = TypeVar("T")

_STATE, _GOODBYE, _REPORT = 0, 1, 2  # tags
_HALF = (torch.float16, torch.bfloat16)


def mpi_communicator(comm: Any) -> "MPICommunicator":
    """The solver's communicator for an mpi4py one: a duplicate, made once and kept with it. Collective."""
    key = _attribute_key()
    found = comm.Get_attr(key)
    if found is None:
        found = MPICommunicator(_duplicate(comm))
        comm.Set_attr(key, found)
    return found


def free(comm: Any) -> None:
    """Free an mpi4py communicator, and the solver's for it where there is one. Collective."""
    found = comm.Get_attr(_attribute_key())
    if found is not None:
        found.free()
    comm.Free()


def _duplicate(comm: Any) -> Any:
    """A communicator of the same ranks with messages of its own.

    Raises:
        RuntimeError: when some rank does not ask for it within LPGPU_TIMEOUT seconds.
    """
    duplicate, request = comm.Idup()
    began = time.perf_counter()
    while not request.Test():
        time.sleep(0.001)
        if time.perf_counter() - began > limit():
            raise RuntimeError(
                f"a network with comm was made on rank {comm.Get_rank()} of {comm.Get_size()}, but not on all of them, "
                f"for {limit():g} s (LPGPU_TIMEOUT)"
            )
    return duplicate


@functools.cache
def _attribute_key() -> int:
    return MPI.Comm.Create_keyval()


class MPICommunicator:
    """See `Communicator`. Copies of a network share it; a pickled network comes back without."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self._sending: deque[tuple[Any, Outgoing]] = deque()
        _check_thread_level()
        end_the_job_on_failure(MPIJob())
        self._notices = MPINotices(comm, _GOODBYE, _REPORT)
        self._watchdog = Watchdog(self.rank, self.size, self._notices)
        # one rank without keeps all from it: blocking and non-blocking collectives do not mix
        self._direct = all(self.allgather(torch.cuda.is_available() and cuda_support().aware))

    @property
    def seconds_waited(self) -> float:
        return self._watchdog.seconds_waited

    @property
    def cpu_seconds_waited(self) -> float:
        """Of `seconds_waited`, what this thread has kept a core busy for."""
        return self._watchdog.cpu_seconds_waited

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
        return self.begin_sum(value).wait()

    def begin_sum(self, value: Tensor) -> Arrival:
        if self._goes_directly(value):
            total = value.detach().clone(memory_format=torch.contiguous_format)
            synchronise(total)
            self._meet()
            self._comm.Allreduce(MPI.IN_PLACE, total)
            return Arrived(total)
        total = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        return _Sum(self, self._comm.Iallreduce(MPI.IN_PLACE, total.numpy()), total, value.device)

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
        agreement.agree(self, check, facts)

    def reversed(self) -> "Communicator":
        return Reversed(self)

    def free(self) -> None:
        """Free the duplicate; who uses this afterwards is told so. Collective."""
        self._meet()
        while self._sending:
            self.wait(self._sending.popleft()[0])
        self._notices.free()
        self._comm.Free()
        self._comm = Freed("the communicator of this network")

    def wait(self, request: Any) -> None:
        """Wait for an MPI request as `Watchdog.wait` does; Ctrl-C is heard."""

        def arrives(seconds: float) -> bool:
            until = time.perf_counter() + seconds
            while not request.Test():
                if time.perf_counter() >= until:
                    return False
                time.sleep(0)  # lets another process have the core
            return True

        self._watchdog.wait(arrives)

    def same_everywhere(self, digest: int) -> bool:
        """Whether `digest` is the same on every rank, and ≥ 0. Collective."""
        bounds = np.array([digest, -digest], dtype=np.int64)
        self.wait(self._comm.Iallreduce(MPI.IN_PLACE, bounds, MPI.MIN))
        return bounds[0] == -bounds[1] != -1

    def _meet(self) -> None:
        """Wait for all ranks, so that a blocking call after it does not."""
        self.wait(self._comm.Ibarrier())

    def _goes_directly(self, tensor: Tensor) -> bool:
        if tensor.device.type == "cuda" and not self._direct:
            say_that_states_are_staged(f"this MPI is not CUDA-aware ({cuda_support().evidence})")
        return tensor.device.type == "cuda" and self._direct

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


@dataclass(frozen=True)
class _Sum:
    communicator: MPICommunicator
    request: Any
    total: Tensor
    device: torch.device

    def wait(self) -> Tensor:
        self.communicator.wait(self.request)
        return self.total.to(self.device)


def _check_thread_level() -> None:
    """On a GPU, backward calls MPI from autograd's own thread, while the main one waits for it: one call at a time."""
    if torch.cuda.is_available() and MPI.Query_thread() < MPI.THREAD_SERIALIZED:
        raise RuntimeError(
            "MPI was initialised without support for calls from several threads, but on a GPU backward calls it from a "
            'thread of its own. Let mpi4py initialise it, or set mpi4py.rc.thread_level = "serialized" or "multiple"'
        )
