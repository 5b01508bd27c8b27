"""Nothing hangs: what happens when one rank ends before the others.

- An exception that nobody catches, on any rank and in any thread, is printed with the rank that raised it, and the job
  ends on all ranks. Where several ranks raise, as all do that refuse the same argument, one of them prints.
- A rank that ends in any other way (`sys.exit`, an exception that the script swallowed, its last line) says so. One
  that still waits for it, and goes on waiting, raises (`watchdog`): so the job ends as above.
- A rank that is killed is seen by the launcher (mpiexec, srun, torchrun), which ends the others.
"""

import atexit
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130
_MARK = "_lpgpu_on_all_ranks"
_job: "Job | None" = None
_at_exit: list[Callable[[], Callable[[], bool]]] = []


class Job(Protocol):
    """The processes that were launched together."""

    rank: int
    size: int

    def is_first_to_fail(self, on_all_ranks: bool) -> bool:
        """Whether this failed rank is the one to print its error, which all ranks may have. May wait for a moment."""
        ...

    def end(self, status: int, reason: str) -> None:
        """End this process and all others at once; `reason` is one line."""
        ...


def end_the_job_on_failure(job: Job) -> None:
    """From now on, an uncaught exception here ends the job on all ranks. Chains to the hooks there are."""
    global _job
    if _job is not None:
        return
    _job = job
    of_process, of_threads = sys.excepthook, threading.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        _end(job, error, lambda: of_process(kind, error, traceback))

    def thread_hook(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_type is SystemExit:
            of_threads(arguments)
        else:
            _end(job, arguments.exc_value, lambda: of_threads(arguments))

    sys.excepthook, threading.excepthook = hook, thread_hook
    atexit.register(_say_goodbye)


def on_all_ranks(error: Exception) -> Exception:
    """`error`, marked as one that all ranks raise."""
    setattr(error, _MARK, True)
    return error


def at_exit(leave: Callable[[], Callable[[], bool]]) -> None:
    """At the interpreter's end call `leave()`, which says goodbye and returns whether the other ranks have, too."""
    _at_exit.append(leave)


def not_at_exit(leave: Callable[[], Callable[[], bool]]) -> None:
    """Take back what `at_exit` was told."""
    _at_exit.remove(leave)


def current_job() -> Job | None:
    """The job that a failure of this process ends; None before there is a communicator of several ranks."""
    return _job


def _say_goodbye() -> None:
    waiting = [leave() for leave in _at_exit]
    while waiting := [done for done in waiting if not done()]:
        time.sleep(0.001)


def _end(job: Job, error: BaseException | None, show: Callable[[], object]) -> None:
    what = "an exception" if error is None else type(error).__name__
    if job.is_first_to_fail(getattr(error, _MARK, False)):
        show()
        said = f"lpgpu: rank {job.rank} of {job.size} ended with {what} (above); ending all ranks"
        print(said, file=sys.stderr, flush=True)
    sys.stdout.flush()
    status = EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else EXIT_FAILED
    job.end(status, f"rank {job.rank} of {job.size} ended with {what}: {error}")
