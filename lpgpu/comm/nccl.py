"""States that go from GPU to GPU by NCCL.

NCCL works on streams: no call here waits for the device. A message waits for what the current stream was given before,
and what the current stream is given after `wait` waits for the message. Several rules keep ranks from waiting for each
other for ever:

- Messages to higher and to lower ranks go through two process groups. The two ranks of a message share one NCCL
  communicator and stream per pair and group, on which operations run in the order of the calls. With one group for both
  directions a receive that is posted early would hold up the message that its sender waits for.
- Neighbours are connected when the link opens: later, the first message between two ranks keeps both hosts until they
  are.
- A failed rank ends its process, and the launcher the others. What is lost otherwise ends by NCCL's own watchdog, after
  LPGPU_TIMEOUT seconds.
"""

import platform
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lpgpu.comm.communicator import Arrival
from lpgpu.comm.groups import covers_the_job, new_groups, number_of_groups
from lpgpu.comm.watchdog import limit


class DeviceLink:
    """Sends tensors of one device in process groups that work on it.

    Args:
        upward, downward: groups of the same ranks, for messages to higher ranks and collectives, and to lower ranks.
    """

    is_open = True
    why_closed = ""

    def __init__(self, upward: Any, downward: Any, device: torch.device) -> None:
        self._upward, self._downward = upward, downward
        self._rank, self._size = upward.rank(), upward.size()
        self._device = device
        self._sending: deque[tuple[Any, Tensor]] = deque()

    def connect(self) -> None:
        """Exchange a byte with both neighbours in both directions, and sum one over all. Collective."""
        byte = torch.zeros(1, dtype=torch.uint8, device=self._device)
        for group, step in ((self._upward, 1), (self._downward, -1)):
            before, after = self._rank - step, self._rank + step
            sends = [lambda group=group, to=after: dist.send(byte, group=group, group_dst=to)] * self._has(after)
            receives = [lambda group=group, of=before: dist.recv(byte, group=group, group_src=of)] * self._has(before)
            # of two neighbours one sends first and one receives first
            for act in sends + receives if self._rank % 2 else receives + sends:
                act()
        dist.all_reduce(byte, group=self._upward)

    def free(self) -> None:
        """Destroy both groups, once what is under way has arrived. Collective."""
        torch.cuda.synchronize(self._device)
        for group in (self._upward, self._downward):
            dist.destroy_process_group(group)

    def send(self, state: Tensor, to: int) -> None:
        """See `Communicator`."""
        self._check(state)
        while self._sending and self._sending[0][0].is_completed():
            self._sending.popleft()
        copy = state.detach().clone(memory_format=torch.contiguous_format)
        self._sending.append((dist.isend(copy, group=self._towards(to), group_dst=to), copy))

    def receive(self, like: Tensor, source: int) -> Arrival:
        """See `Communicator`."""
        self._check(like)
        landed = torch.empty(like.shape, dtype=like.dtype, device=like.device)
        group = self._upward if source < self._rank else self._downward
        return _OnStream(dist.irecv(landed, group=group, group_src=source), landed)

    def begin_sum(self, value: Tensor) -> Arrival:
        """See `Communicator`."""
        self._check(value)
        total = value.detach().clone(memory_format=torch.contiguous_format)
        return _OnStream(dist.all_reduce(total, group=self._upward, async_op=True), total)

    def broadcast(self, value: Tensor, root: int) -> Tensor:
        """See `Communicator`."""
        self._check(value)
        copy = value.detach().clone(memory_format=torch.contiguous_format)
        dist.broadcast(copy.reshape(-1).view(torch.uint8), group=self._upward, group_src=root)
        return copy

    def _towards(self, rank: int) -> Any:
        return self._upward if rank > self._rank else self._downward

    def _has(self, rank: int) -> bool:
        return 0 <= rank < self._size

    def _check(self, tensor: Tensor) -> None:
        if tensor.device != self._device:
            raise ValueError(
                f"a state is on {tensor.device}, but this rank's device was {self._device} when the communicator was "
                "made: call torch.cuda.set_device(int(os.environ['LOCAL_RANK'])) first, and move the network there"
            )


@dataclass(frozen=True)
class _OnStream:
    """See `Arrival`: the current stream waits, the host does not."""

    work: Any
    landed: Tensor

    def wait(self) -> Tensor:
        self.work.wait()
        return self.landed


@dataclass(frozen=True)
class NoDeviceLink:
    """Why there is none."""

    why_closed: str
    is_open = False

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"there is no link between GPUs: {self.why_closed}")


def open_device_link(
    group: Any, rows: Sequence[Sequence[int]], allgather: Callable[[Any], list[Any]]
) -> DeviceLink | NoDeviceLink:
    """The link between the GPUs of a group's ranks, if all of them can have it; as in `ProcessGroupCommunicator`."""
    offers, counts = allgather(_offer(group, rows)), allgather(number_of_groups())
    refusal = next((refusal for refusal, _ in offers if refusal), "") or _shared_device([where for _, where in offers])
    if not refusal and not covers_the_job(rows) and len(set(counts)) > 1:
        refusal = f"the ranks of this process group are in {counts} groups, and can make one of their own only if equal"
    if refusal:
        return NoDeviceLink(refusal)
    options = {"backend": "nccl", "timeout": timedelta(seconds=limit())}
    device = torch.device("cuda", torch.cuda.current_device())
    link = DeviceLink(new_groups(rows, **options), new_groups(rows, **options), device)
    link.connect()
    return link


def _offer(group: Any, rows: Sequence[Sequence[int]]) -> tuple[str, tuple[str, str]]:
    """Why this rank cannot have a link, if so; and its machine and GPU."""
    if not torch.cuda.is_available():
        return "there is no CUDA device", ("", "")
    if "nccl" not in dist.get_backend_config(group):
        return f"the process group's backends are {dist.get_backend_config(group)}, without nccl", ("", "")
    if getattr(dist.group.WORLD, "bound_device_id", None) is not None and not covers_the_job(rows):
        refusal = (
            "init_process_group was called with device_id, so that NCCL makes groups on all ranks of the job together, "
            "and this one is of some of them. Take the groups of lpgpu.ProcessGrid, or leave device_id out"
        )
        return refusal, ("", "")
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return "", (platform.node(), str(getattr(properties, "uuid", torch.cuda.current_device())))


def _shared_device(places: list[tuple[str, str]]) -> str:
    """What to say if two ranks are on one GPU, which NCCL does not allow."""
    for rank, place in enumerate(places):
        if place in places[:rank]:
            return (
                f"ranks {places.index(place)} and {rank} have the same GPU; before anything else call "
                "torch.cuda.set_device(int(os.environ['LOCAL_RANK']))"
            )
    return ""
