"""Ranks of a process group of torch.distributed.

What the processes agree on, and states in host memory, travel by gloo, whatever the user's group works with. States on
GPUs travel by NCCL where the user's group has it (`nccl`), and through host memory where it has not.
"""

import pickle
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lpgpu.comm import agreement
from lpgpu.comm.background import Background
from lpgpu.comm.communicator import Arrival, Communicator
from lpgpu.comm.detached import Detached
from lpgpu.comm.failure import end_the_job_on_failure
from lpgpu.comm.freed import Freed
from lpgpu.comm.groups import covers_the_job, gloo_beside, new_groups, number_of_groups, store_of
from lpgpu.comm.nccl import open_device_link
from lpgpu.comm.reversal import Reversed
from lpgpu.comm.store_job import StoreJob, StoreNotices
from lpgpu.comm.transport import Incoming, Outgoing, say_that_states_are_staged
from lpgpu.comm.watchdog import GRACE, Watchdog, limit

T = TypeVar("T")

_HALF = (torch.float16, torch.bfloat16)
_TAG = 0
_made: "weakref.WeakKeyDictionary[Any, ProcessGroupCommunicator]" = weakref.WeakKeyDictionary()


def process_group_communicator(group: Any) -> "ProcessGroupCommunicator":
    """The solver's communicator for a process group: groups of its own, made once and kept with it. Collective."""
    if group not in _made:
        _meet(group)
        _made[group] = ProcessGroupCommunicator(group, [dist.get_process_group_ranks(group)])
    return _made[group]


def split(group: Any, color: int, key: int) -> Any:
    """The process group of the ranks that call with the same color, in the order of their keys. Collective."""
    ranks = dist.get_process_group_ranks(group)
    places = process_group_communicator(group).allgather((color, key))
    rows: dict[int, list[int]] = {}
    for each, _, rank in sorted((*place, rank) for place, rank in zip(places, ranks, strict=True)):
        rows.setdefault(each, []).append(rank)
    counts = process_group_communicator(group).allgather(number_of_groups())
    if not covers_the_job(list(rows.values())) and len(set(counts)) > 1:
        raise RuntimeError(
            f"the ranks of this process group are in {counts} groups, and can split it only if these are equal: make "
            "the groups by torch.distributed.new_group on all ranks of the job, and pass these"
        )
    made = new_groups(list(rows.values()))
    if made.size() > 1:
        _made[made] = ProcessGroupCommunicator(made, list(rows.values()))
    return made


def free(group: Any) -> None:
    """Destroy a process group, and the solver's communicator for it where there is one. Collective."""
    if (made := _made.pop(group, None)) is not None:
        made.free()
    dist.destroy_process_group(group)


def _meet(group: Any) -> None:
    """Wait until all ranks of a group ask for a communicator.

    Raises:
        RuntimeError: when some rank does not within LPGPU_TIMEOUT seconds, or has failed.
    """
    store, job, began = store_of(group), StoreJob(), time.perf_counter()
    store.add("lpgpu/meeting", 1)
    while store.add("lpgpu/meeting", 0) < group.size():
        time.sleep(0.005)
        reason = job.failure()
        if reason is None and time.perf_counter() - began < limit():
            continue
        raise RuntimeError(
            f"a network with comm was made on rank {group.rank()} of {group.size()}, but not on all of them, "
            + (f"for {limit():g} s (LPGPU_TIMEOUT)" if reason is None else f"because {reason}")
        )


class ProcessGroupCommunicator:
    """See `Communicator`. Copies of a network share it; a pickled network comes back without.

    Args:
        group: the process group whose ranks these are.
        rows: the global ranks of all groups for which communicators are made in this call; `group` is one of them.
    """

    def __init__(self, group: Any, rows: Sequence[Sequence[int]]) -> None:
        self.rank: int = group.rank()
        self.size: int = group.size()
        self._gloo: Any = gloo_beside(group)
        job = StoreJob()
        end_the_job_on_failure(job)
        self._notices = StoreNotices(job, store_of(group), self.rank, self.size)
        self._watchdog = Watchdog(self.rank, self.size, self._notices)
        self._waits, self._sends = Background(), Background()
        self._device_link: Any = open_device_link(group, rows, self.allgather)

    @property
    def seconds_waited(self) -> float:
        return self._watchdog.seconds_waited

    @property
    def cpu_seconds_waited(self) -> float:
        """Of `seconds_waited`, what this thread has kept a core busy for."""
        return self._watchdog.cpu_seconds_waited

    def send(self, state: Tensor, to: int) -> None:
        if self._goes_directly(state):
            self._device_link.send(state, to)
            return
        outgoing = Outgoing(state, direct=False)
        work = self._gloo.send([outgoing.copy], to, _TAG)
        self._sends.submit(lambda: (work.wait(), outgoing))  # gloo reads the copy until then

    def receive(self, like: Tensor, source: int) -> Arrival:
        if self._goes_directly(like):
            return self._device_link.receive(like, source)
        incoming = Incoming(like, direct=False)
        work = self._gloo.recv([incoming.landed], source, _TAG)
        return _Arrival(self, work, incoming)

    def sum(self, value: Tensor) -> Tensor:
        if value.dtype in _HALF:
            return self.sum(value.float()).to(value.dtype)
        return self.begin_sum(value).wait()

    def begin_sum(self, value: Tensor) -> Arrival:
        if self._goes_directly(value):
            return self._device_link.begin_sum(value)
        total = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        return _Sum(self, self._gloo.allreduce([total]), total, value.device)

    def broadcast(self, value: Tensor, root: int) -> Tensor:
        if self._goes_directly(value):
            return self._device_link.broadcast(value, root)
        copy = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        options = dist.BroadcastOptions()
        options.rootRank = root
        self.wait(self._gloo.broadcast([copy.reshape(-1).view(torch.uint8)], options))
        return copy.to(value.device)

    def allgather(self, value: T) -> list[T]:
        pickled = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        sizes = [int(size) for size in self._gather(torch.tensor([len(pickled)]))]
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(pickled)] = pickled
        gathered = self._gather(padded)
        return [pickle.loads(each[:size].numpy().tobytes()) for each, size in zip(gathered, sizes, strict=True)]

    def agree(self, check: Callable[[], object], facts: Callable[[], Mapping[str, Any]]) -> None:
        agreement.agree(self, check, facts)

    def reversed(self) -> Communicator:
        return Reversed(self)

    def same_everywhere(self, digest: int) -> bool:
        """Whether `digest` is the same on every rank, and ≥ 0. Collective."""
        bounds = torch.tensor([digest, -digest])
        self.wait(self._gloo.allreduce([bounds], dist.ReduceOp.MIN))
        return int(bounds[0]) == -int(bounds[1]) != -1

    def wait(self, work: Any) -> None:
        """Wait for a message of gloo's as `Watchdog.wait` does; Ctrl-C is heard."""
        future = self._waits.submit(work.wait)

        def arrives(seconds: float) -> bool:
            try:
                future.result(seconds)
            except TimeoutError:
                return False
            return True

        try:
            self._watchdog.wait(arrives)
        except RuntimeError as error:
            if future.done() and future.exception() is error:
                raise RuntimeError(self._why_lost()) from error
            raise

    def free(self) -> None:
        """Free the groups of its own; who uses this afterwards is told so. Collective."""
        self.allgather(None)
        if self._device_link.is_open:
            self._device_link.free()
        self._notices.free()
        self._waits.stop()
        self._sends.stop()
        self._gloo = self._device_link = Freed("the communicator of this network")

    def _gather(self, mine: Tensor) -> list[Tensor]:
        gathered = [torch.empty_like(mine) for _ in range(self.size)]
        self.wait(self._gloo.allgather([gathered], [mine]))
        return gathered

    def _goes_directly(self, tensor: Tensor) -> bool:
        if tensor.device.type == "cuda" and not self._device_link.is_open:
            say_that_states_are_staged(self._device_link.why_closed)
        return tensor.device.type == "cuda" and self._device_link.is_open

    def _why_lost(self) -> str:
        """What to say when the connection to another rank breaks: it has ended, and may have left a reason."""
        until, reason = time.perf_counter() + GRACE, None
        while reason is None and time.perf_counter() < until:
            reason = self._notices.failure()
            time.sleep(0.05)
        lost = f"rank {self.rank} of this communicator has lost the connection to another rank that it waited for"
        return f"{lost}: {reason or 'that rank has ended, or was killed'}"

    def __deepcopy__(self, memo: object) -> "ProcessGroupCommunicator":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Detached, (self.rank, self.size)


class _Arrival:
    def __init__(self, communicator: ProcessGroupCommunicator, work: Any, incoming: Incoming) -> None:
        self._communicator = communicator
        self._work = work
        self._incoming = incoming

    def wait(self) -> Tensor:
        self._communicator.wait(self._work)
        return self._incoming.tensor()


@dataclass(frozen=True)
class _Sum:
    communicator: ProcessGroupCommunicator
    work: Any
    total: Tensor
    device: torch.device

    def wait(self) -> Tensor:
        self.communicator.wait(self.work)
        return self.total.to(self.device)
