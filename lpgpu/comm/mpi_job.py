"""MPI's side of `failure` and `watchdog`: how a job ends, and how ranks hear of each other."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from mpi4py import MPI

from lpgpu.comm import failure

# seconds that a failed rank leaves to rank 0, which may fail likewise, to print its error and to end the job
_TURN, _TURN_OF_ALL = 0.5, 10.0


class MPIJob:
    """See `failure.Job`: all ranks of MPI.COMM_WORLD."""

    def __init__(self) -> None:
        self.rank, self.size = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()

    def is_first_to_fail(self, on_all_ranks: bool) -> bool:
        if self.rank > 0:
            time.sleep(_TURN_OF_ALL if on_all_ranks else _TURN)
        return True

    def end(self, status: int, reason: str) -> None:
        if not MPI.Is_finalized():
            MPI.COMM_WORLD.Abort(status)


class MPINotices:
    """See `watchdog.Notices`: messages of their own tags. A rank hears of its neighbours' end only."""

    def __init__(self, comm: Any, goodbye_tag: int, report_tag: int) -> None:
        self._comm = comm
        self._goodbye_tag, self._report_tag = goodbye_tag, report_tag
        neighbours = [rank for rank in (comm.Get_rank() - 1, comm.Get_rank() + 1) if 0 <= rank < comm.Get_size()]
        self._buffers = {rank: bytearray(1) for rank in neighbours}
        self._expected = {rank: comm.Irecv(buffer, rank, goodbye_tag) for rank, buffer in self._buffers.items()}
        self._gone: list[int] = []
        self._sent: list[tuple[Any, np.ndarray]] = []
        failure.at_exit(self._leave)

    def failure(self) -> str | None:
        return None  # MPIJob.end has ended this process as well

    def gone(self) -> list[int]:
        arrived = [rank for rank, request in self._expected.items() if request.Test()]
        for rank in arrived:
            del self._expected[rank]
            self._gone.append(rank)
        return self._gone

    def report(self, waits: int) -> None:
        self._sent = [(request, buffer) for request, buffer in self._sent if not request.Test()]
        buffer = np.array([waits], dtype=np.int64)
        self._sent.append((self._comm.Isend(buffer, 0, self._report_tag), buffer))

    def reports(self) -> Iterator[tuple[int, int]]:
        status, waits = MPI.Status(), np.empty(1, dtype=np.int64)
        while self._comm.Iprobe(MPI.ANY_SOURCE, self._report_tag, status):
            self._comm.Recv(waits, status.Get_source(), self._report_tag)
            yield status.Get_source(), int(waits[0])

    def free(self) -> None:
        """Receive what is still to come, and say goodbye as at the end. All ranks call together."""
        failure.not_at_exit(self._leave)
        done = self._leave()
        while not done():
            time.sleep(0.001)
        for _ in self.reports():
            pass

    def _leave(self) -> Callable[[], bool]:
        if MPI.Is_finalized():
            return lambda: True
        said = [self._comm.Isend(bytearray(1), rank, self._goodbye_tag) for rank in self._buffers]

        def done() -> bool:
            self.gone()
            return not self._expected and all([request.Test() for request in said])

        return done
