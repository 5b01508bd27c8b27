"""Nothing hangs: what a rank looks out for while it waits for others.

gone         a rank of this communicator has ended, and what this rank waits for still does not come
standstill   all ranks wait for each other, because some did not make the call that the others are in
limit        a wait takes more than LPGPU_TIMEOUT seconds, for any other reason

A standstill is found by rank 0. A rank that has waited for some seconds tells it so, again and again, with the number
of waits that it has behind it. Once rank 0 waits as well and hears the same numbers for a while from all others, nobody
will ever go on: only ranks of this communicator could end these waits.
"""

import os
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from lpgpu.profiling import nvtx_range

GRACE = 3.0  # seconds in which messages of a rank that has ended may still arrive
PATIENCE = 5.0  # seconds of waiting before a rank speaks of it
INTERVAL = 1.0  # seconds between two reports
_LOOK_EVERY = 0.1  # seconds of waiting between two looks at the other ranks


class Notices(Protocol):
    """What the ranks of a communicator tell each other beside their messages. No call waits."""

    def failure(self) -> str | None:
        """Why the job ends, where a rank has failed and could not end it itself."""
        ...

    def gone(self) -> Iterable[int]:
        """The ranks that are known to have ended."""
        ...

    def report(self, waits: int) -> None:
        """Tell rank 0 that this rank waits, after `waits` waits that have ended."""
        ...

    def reports(self) -> Iterable[tuple[int, int]]:
        """On rank 0: (rank, waits) of each report that has come since the last call."""
        ...


class Watchdog:
    """Waits for other ranks, as long as there is hope.

    Attributes:
        seconds_waited, cpu_seconds_waited: time spent in waiting, since the start.
    """

    def __init__(self, rank: int, size: int, notices: Notices) -> None:
        self._rank = rank
        self._size = size
        self._notices = notices
        self.seconds_waited = self.cpu_seconds_waited = 0.0
        self._waits = 0
        self._gone_since: float | None = None
        self._reported = 0.0
        self._reports: dict[int, tuple[int, float, float]] = {}  # rank → waits, when first and last heard of them

    def wait(self, arrives: Callable[[float], bool]) -> None:
        """Wait until `arrives(seconds)`, which waits for at most so long, says yes.

        Raises:
            RuntimeError: when it never will.
        """
        if arrives(0.0):
            return
        began, cpu_began = time.perf_counter(), time.thread_time()
        with nvtx_range("wait"):
            while not arrives(_LOOK_EVERY):
                self._look(began)
        self._gone_since = None
        self._waits += 1
        self.seconds_waited += time.perf_counter() - began
        self.cpu_seconds_waited += time.thread_time() - cpu_began

    def _look(self, began: float) -> None:
        now = time.perf_counter()
        if reason := self._notices.failure():
            raise RuntimeError(f"rank {self._rank} of this communicator waits in vain: {reason}")
        self._look_for_the_gone(now)
        if now - began > limit():
            raise RuntimeError(
                f"rank {self._rank} of this communicator has waited for the others for {limit():g} s: do all ranks "
                "make the same calls, and was comm given to all? (LPGPU_TIMEOUT sets the limit)"
            )
        if now - began < PATIENCE or now - self._reported < INTERVAL:
            return
        self._reported = now
        if self._rank > 0:
            self._notices.report(self._waits)
        elif self._all_wait(now):
            raise RuntimeError(
                f"all {self._size} ranks of this communicator wait for each other: all must make the same calls, "
                "forward and backward, and some rank made another one"
            )

    def _look_for_the_gone(self, now: float) -> None:
        gone = next(iter(self._notices.gone()), None)
        if gone is None:
            return
        self._gone_since = self._gone_since or now
        if now - self._gone_since > GRACE:
            raise RuntimeError(
                f"rank {gone} of this communicator has ended while rank {self._rank} still waits for it: all ranks "
                "must make the same calls"
            )

    def _all_wait(self, now: float) -> bool:
        for rank, waits in self._notices.reports():
            before, first, _ = self._reports.get(rank, (-1, now, now))
            self._reports[rank] = waits, first if before == waits else now, now
        fresh = [first for _, first, last in self._reports.values() if now - last < 3 * INTERVAL]
        return len(fresh) == self._size - 1 and all(now - first >= 2 * INTERVAL for first in fresh)


def limit() -> float:
    """Seconds after which a wait is given up: LPGPU_TIMEOUT, 600 by default.

    Raises:
        ValueError: when LPGPU_TIMEOUT is no positive number.
    """
    given = os.environ.get("LPGPU_TIMEOUT", "600")
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ValueError(f"LPGPU_TIMEOUT is {given!r}; expected a number of seconds > 0")
    return seconds
