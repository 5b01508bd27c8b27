"""Nothing hangs: what happens when one rank ends before the others.

- An exception that nobody catches, on any rank and in any thread, is printed with the rank that raised it, and MPI ends
  the job on all ranks.
- A rank that ends in any other way (`sys.exit`, an exception that the script swallowed, its last line) says goodbye to
  its neighbours. One that still waits in a solve, and goes on waiting, raises: so the job ends as above.
- A rank that is killed is seen by mpiexec or srun, which end the others.
"""

import atexit
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

GRACE = 3.0  # seconds in which messages that a departed rank had sent may still arrive
_installed = False
_at_exit: list[Callable[[], Callable[[], bool]]] = []


def end_the_job_on_failure(rank: int, size: int) -> None:
    """From now on, an uncaught exception here ends the job on all ranks. Chains to the hooks there are."""
    global _installed
    if _installed:
        return
    _installed = True
    of_process, of_threads = sys.excepthook, threading.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        of_process(kind, error, traceback)
        _abort(rank, size, error)

    def thread_hook(arguments: threading.ExceptHookArgs) -> None:
        of_threads(arguments)
        if arguments.exc_type is not SystemExit:
            _abort(rank, size, arguments.exc_value)

    sys.excepthook, threading.excepthook = hook, thread_hook
    atexit.register(_say_goodbye)


def at_exit(leave: Callable[[], Callable[[], bool]]) -> None:
    """At the interpreter's end call `leave()`, which says goodbye and returns whether the neighbours have, too."""
    _at_exit.append(leave)


class Departure:
    """Notices, while this rank waits, that a neighbour has gone."""

    def __init__(self, comm: Any, tag: int) -> None:
        self._comm = comm
        self._tag = tag
        self._noticed: float | None = None
        neighbours = [rank for rank in (comm.Get_rank() - 1, comm.Get_rank() + 1) if 0 <= rank < comm.Get_size()]
        self._buffers = {rank: bytearray(1) for rank in neighbours}
        self._expected = {rank: comm.Irecv(buffer, rank, tag) for rank, buffer in self._buffers.items()}
        self._gone: list[int] = []
        at_exit(self._leave)

    def check(self) -> None:
        """Called now and then by who waits.

        Raises:
            RuntimeError: when a neighbour has ended, and what this rank waits for still does not come.
        """
        self._look()
        if not self._gone:
            return
        self._noticed = self._noticed or time.monotonic()
        if time.monotonic() - self._noticed > GRACE:
            raise RuntimeError(
                f"rank {self._gone[0]} of this communicator has ended while rank {self._comm.Get_rank()} still waits "
                "for it: all ranks must make the same calls"
            )

    def waited_in_vain(self) -> None:
        """Forget since when: what was waited for has come."""
        self._noticed = None

    def _look(self) -> None:
        arrived = [rank for rank, request in self._expected.items() if request.Test()]
        for rank in arrived:
            del self._expected[rank]
            self._gone.append(rank)

    def _leave(self) -> Callable[[], bool]:
        said = [self._comm.Isend(bytearray(1), rank, self._tag) for rank in self._buffers]

        def done() -> bool:
            self._look()
            return not self._expected and all([request.Test() for request in said])

        return done


def _say_goodbye() -> None:
    from mpi4py import MPI

    if MPI.Is_finalized():
        return
    waiting = [leave() for leave in _at_exit]
    while waiting := [done for done in waiting if not done()]:
        time.sleep(0.001)


def _abort(rank: int, size: int, error: BaseException | None) -> None:
    from mpi4py import MPI

    what = "an exception" if error is None else type(error).__name__
    print(f"lpgpu: rank {rank} of {size} ended with {what} (above); ending all ranks", file=sys.stderr, flush=True)
    sys.stdout.flush()
    if not MPI.Is_finalized():
        MPI.COMM_WORLD.Abort(1)
