"""Gradients averaged over the ranks that share the data: after backward, or while it runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lpgpu.comm import Arrival, Communicator, as_communicator

BUCKET_BYTES = 25 * 2**20


def average_gradients(module: nn.Module, data_comm: Any, *, bucket_bytes: int = BUCKET_BYTES) -> None:
    """Replace every gradient by its mean over the ranks of `data_comm`: call between backward and the optimizer.

    The gradients travel in buckets of about `bucket_bytes`, each one message; half precision is summed in fp32. A
    parameter without a gradient on some ranks counts as zero there, without one on all of them it stays without.
    Collective: every rank of `data_comm` calls, with a network of the same parameters.

    >>> net = nn.Linear(2, 1)
    >>> net(torch.ones(3, 2)).sum().backward()
    >>> average_gradients(net, None)  # of one process: nothing changes
    >>> net.bias.grad
    tensor([3.])
    """
    communicator = as_communicator(data_comm)
    if communicator.size > 1:
        _Averaging(_parameters(module), communicator, bucket_bytes).finish()


def overlap_gradients(module: nn.Module, data_comm: Any, *, bucket_bytes: int = BUCKET_BYTES) -> "OverlappedGradients":
    """Average gradients as `average_gradients` does, while backward still runs, from now on.

        overlapped = overlap_gradients(net, grid.data_comm)
        loss.backward()         # each bucket leaves as soon as its gradients are there
        overlapped.finish()     # instead of average_gradients
        optimizer.step()

    Collective, as `finish` is. The same numbers as those of `average_gradients`, also where several backwards add up
    before `finish`; those that are not the last belong into `with overlapped.paused():`, which saves messages.

    >>> net = nn.Linear(2, 2)
    >>> overlapped = overlap_gradients(net, None)  # under mpiexec: grid.data_comm
    >>> net(torch.ones(1, 2)).sum().backward()
    >>> overlapped.finish()

    Raises:
        ValueError: when no parameter of `module` wants a gradient.
    """
    return OverlappedGradients(module, as_communicator(data_comm), bucket_bytes)


class OverlappedGradients:
    """What `overlap_gradients` returns.

    Attributes:
        started: the buckets that have left since the last `finish`.
    """

    def __init__(self, module: nn.Module, communicator: Communicator, bucket_bytes: int) -> None:
        parameters = _parameters(module)
        if not parameters:
            raise ValueError("no parameter of the module wants a gradient; expected a network that is trained")
        self._averaging = _Averaging(parameters, communicator, bucket_bytes)
        self._paused = False
        alone = communicator.size == 1
        self._hooks = [] if alone else [p.register_post_accumulate_grad_hook(self._arrived) for p in parameters]

    @property
    def started(self) -> int:
        return self._averaging.started

    def finish(self) -> None:
        """Replace every gradient by its mean over the data ranks: call before whatever reads gradients."""
        if self._hooks:
            self._averaging.finish()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Backwards in here start no message: later ones add to the same gradients."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def remove(self) -> None:
        """Undo `overlap_gradients`."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _arrived(self, theta: Tensor) -> None:
        if not self._paused:
            self._averaging.arrived(theta)


class _Averaging:
    """The buckets of one averaging after the other.

    Buckets leave in one order, so that all ranks make the same calls whatever their gradients' order: the last
    parameters first, as backward has their gradients first. What has not left by the end leaves in `finish`. A bucket
    whose gradients have changed since it left, on any rank, is summed again.
    """

    def __init__(self, parameters: Sequence[Tensor], communicator: Communicator, bucket_bytes: int) -> None:
        self._communicator = communicator
        self._parameters = list(parameters)[::-1]
        self._bucket_bytes = bucket_bytes
        self._begin()

    def _begin(self) -> None:
        self._buckets = [_Bucket(group) for group in _grouped(self._parameters, self._bucket_bytes)]
        self._bucket_of = {id(theta): bucket for bucket in self._buckets for theta in bucket.parameters}
        self.started = 0

    def arrived(self, theta: Tensor) -> None:
        """A gradient of `theta` is there: start what is complete, in order."""
        self._bucket_of[id(theta)].missing.discard(id(theta))
        while self.started < len(self._buckets) and not self._buckets[self.started].missing:
            self._start(self._buckets[self.started])

    def finish(self) -> None:
        """Wait for all buckets, and put the means in place of the gradients."""
        while self.started < len(self._buckets):
            self._start(self._buckets[self.started])
        present = [theta.grad is not None for theta in self._parameters]
        changed = [bucket.has_changed() for bucket in self._buckets]
        counts = self._communicator.sum(torch.tensor([*present, *changed], dtype=torch.int64)).tolist()
        anywhere = {id(theta) for theta, count in zip(self._parameters, counts, strict=False) if count}
        for bucket, count in zip(self._buckets, counts[len(present) :], strict=True):
            total = bucket.total()
            if count:
                total = self._communicator.sum(bucket.flat())
            bucket.put(total / self._communicator.size, anywhere)
        self._begin()

    def _start(self, bucket: "_Bucket") -> None:
        bucket.leave(self._communicator)
        self.started += 1


class _Bucket:
    """Parameters of one dtype and device, whose gradients travel in one message."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self.parameters = parameters
        self.missing = {id(theta) for theta in parameters}
        self._left: list[tuple[Tensor | None, int]] = []  # each gradient that left, and its version
        self._arrival: Arrival | None = None

    def leave(self, communicator: Communicator) -> None:
        """Begin the sum over the ranks."""
        self._left = self._versions()
        self._arrival = communicator.begin_sum(self.flat())

    def has_changed(self) -> bool:
        """Whether any gradient is another one than when it left."""
        return any(
            then is not now or version != before
            for (then, before), (now, version) in zip(self._left, self._versions(), strict=True)
        )

    def flat(self) -> Tensor:
        """The gradients in one vector, at least in fp32; zero where there is none."""
        gradients = [torch.zeros_like(theta) if theta.grad is None else theta.grad for theta in self.parameters]
        flat = torch.cat([gradient.detach().flatten() for gradient in gradients])
        return flat.to(torch.promote_types(flat.dtype, torch.float32))

    def total(self) -> Tensor:
        """The sum over the ranks that was begun."""
        if self._arrival is None:
            raise RuntimeError("the sum of a bucket was waited for before it was begun")
        return self._arrival.wait()

    def put(self, mean: Tensor, wanted: set[int]) -> None:
        """Set the gradients of those parameters whose id is wanted."""
        for theta, part in zip(self.parameters, mean.split([p.numel() for p in self.parameters]), strict=True):
            if id(theta) in wanted:
                theta.grad = part.view_as(theta).to(theta.dtype)

    def _versions(self) -> list[tuple[Tensor | None, int]]:
        return [(p.grad, -1 if p.grad is None else p.grad._version) for p in self.parameters]


def _parameters(module: nn.Module) -> list[Tensor]:
    return [theta for theta in module.parameters() if theta.requires_grad]


def _grouped(parameters: Sequence[Tensor], bucket_bytes: int) -> Iterator[list[Tensor]]:
    """Consecutive parameters of one dtype and device, as many as fit, at least one."""
    bucket: list[Tensor] = []
    size = 0
    for theta in parameters:
        nbytes = theta.numel() * theta.element_size()
        alike = not bucket or (theta.dtype, theta.device) == (bucket[0].dtype, bucket[0].device)
        if bucket and (not alike or size + nbytes > bucket_bytes):
            yield bucket
            bucket, size = [], 0
        bucket.append(theta)
        size += nbytes
    if bucket:
        yield bucket
