"""Nothing hangs: all ranks wait for each other, because some did not make the call that the others are in.

A rank that has waited for some seconds tells rank 0 so, again and again, with the number of waits that it has behind
it. Once rank 0 waits as well and hears the same numbers for a while from all others, nobody will ever go on: only ranks
of this communicator could end these waits. For what this does not see there is a limit to every wait.
"""

import os
import time
from typing import Any

import numpy as np

PATIENCE = 5.0  # seconds of waiting before a rank speaks of it
INTERVAL = 1.0  # seconds between two reports


class Standstill:
    """Looks out for a standstill of a communicator's ranks while this one waits."""

    def __init__(self, comm: Any, tag: int) -> None:
        self._comm = comm
        self._tag = tag
        self._reported = 0.0
        self._reports: dict[int, tuple[int, float, float]] = {}  # rank → waits, when first and last heard of them
        self._sent: list[tuple[Any, np.ndarray]] = []

    def check(self, waits: int, since: float) -> None:
        """Called now and then by who waits: its `waits` so far, and since when (time.perf_counter) it is in this one.

        Raises:
            RuntimeError: when no rank goes on, or this one has waited for LPGPU_MPI_TIMEOUT seconds.
        """
        now = time.perf_counter()
        if now - since > limit():
            raise RuntimeError(
                f"rank {self._comm.Get_rank()} of this communicator has waited for the others for {limit():g} s: do all"
                " ranks make the same calls, and was comm given to all? (LPGPU_MPI_TIMEOUT sets the limit)"
            )
        if now - since < PATIENCE or now - self._reported < INTERVAL:
            return
        self._reported = now
        if self._comm.Get_rank() > 0:
            self._report(waits)
        elif self._all_wait(now):
            raise RuntimeError(
                f"all {self._comm.Get_size()} ranks of this communicator wait for each other: all must make the same "
                "calls, forward and backward, and some rank made another one"
            )

    def _report(self, waits: int) -> None:
        self._sent = [(request, buffer) for request, buffer in self._sent if not request.Test()]
        buffer = np.array([waits], dtype=np.int64)
        self._sent.append((self._comm.Isend(buffer, 0, self._tag), buffer))

    def _all_wait(self, now: float) -> bool:
        from mpi4py import MPI

        status, waits = MPI.Status(), np.empty(1, dtype=np.int64)
        while self._comm.Iprobe(MPI.ANY_SOURCE, self._tag, status):
            rank = status.Get_source()
            self._comm.Recv(waits, rank, self._tag)
            before, first, _ = self._reports.get(rank, (-1, now, now))
            self._reports[rank] = int(waits[0]), first if before == waits[0] else now, now
        fresh = [first for _, first, last in self._reports.values() if now - last < 3 * INTERVAL]
        return len(fresh) == self._comm.Get_size() - 1 and all(now - first >= 2 * INTERVAL for first in fresh)


def limit() -> float:
    """Seconds after which a wait is given up."""
    return float(os.environ.get("LPGPU_MPI_TIMEOUT", "600"))
