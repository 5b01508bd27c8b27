"""torch.distributed's side of `failure` and `watchdog`: what ranks leave for each other in a process group's store."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch.distributed as dist

from lpgpu.comm import failure
from lpgpu.comm.groups import store_of
from lpgpu.comm.watchdog import limit

T = TypeVar("T")

_FAILURES, _REASON, _GONE = "lpgpu/failures", "lpgpu/reason", "lpgpu/gone"
_LINGER = 1.0  # seconds that a failed rank 0 keeps the store, for the others to read the reason


class StoreJob:
    """See `failure.Job`: all ranks of torch.distributed's default process group."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._store = store_of(dist.group.WORLD)

    def is_first_to_fail(self, on_all_ranks: bool) -> bool:
        try:
            return self._store.add(_FAILURES, 1) == 1
        except RuntimeError:  # the process that keeps the store has ended
            return True

    def end(self, status: int, reason: str) -> None:
        try:
            self._store.compare_set(_REASON, "", reason)  # the first reason stays
            if self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
                time.sleep(_LINGER)
        except RuntimeError:
            print("lpgpu: the store of this job has gone; not all ranks may end", file=sys.stderr)
        sys.stderr.flush()
        os._exit(status)  # the destructors of process groups may wait for other ranks

    def failure(self) -> str | None:
        """Why the job ends, once some rank has said so."""
        return self._store.get(_REASON).decode() if self._store.check([_REASON]) else None


class StoreNotices:
    """See `watchdog.Notices`: keys in the store of the process group that a communicator was made for."""

    def __init__(self, job: StoreJob, store: Any, rank: int, size: int) -> None:
        self._job, self._store = job, store
        self._rank, self._size = rank, size
        self._reports = 0
        self._heard = [0] * size
        failure.at_exit(self._leave)

    def failure(self) -> str | None:
        return self._ask(self._job.failure)

    def gone(self) -> list[int]:
        def those() -> list[int]:
            if not self._store.check([_GONE]):
                return []
            return [rank for rank in range(self._size) if self._store.check([f"{_GONE}/{rank}"])]

        return self._ask(those)

    def report(self, waits: int) -> None:
        self._reports += 1
        self._ask(lambda: self._store.set(f"lpgpu/waits/{self._rank}", f"{self._reports} {waits}"))

    def reports(self) -> Iterator[tuple[int, int]]:
        for rank in range(1, self._size):
            key = f"lpgpu/waits/{rank}"
            if not self._store.check([key]):
                continue
            number, waits = map(int, self._store.get(key).split())
            if number > self._heard[rank]:
                self._heard[rank] = number
                yield rank, waits

    def free(self) -> None:
        """Expect nobody at the end. All ranks call together."""
        failure.not_at_exit(self._leave)

    def _ask(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except RuntimeError as error:
            raise RuntimeError(
                f"the process that keeps this job's store (rank 0, or the launcher) has ended while rank {self._rank} "
                "of this communicator waited for other ranks"
            ) from error

    def _leave(self) -> Callable[[], bool]:
        """Stay until all ranks leave: what this one has sent may still be under way, and it may keep the store."""
        until = time.monotonic() + limit()

        def all_leave() -> bool:
            return self._store.add(_GONE, 0) >= self._size or self._job.failure() is not None

        try:
            self._store.set(f"{_GONE}/{self._rank}", "")
            self._store.add(_GONE, 1)
        except RuntimeError:  # the process that keeps the store has left already
            return lambda: True

        def done() -> bool:
            try:
                return all_leave() or time.monotonic() > until
            except RuntimeError:
                return True

        return done
