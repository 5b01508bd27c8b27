"""Where the time goes: seconds per named part, and NVTX ranges for Nsight, under the same names.

timings = Timings(device)
with timings("forward"):
    y = net(x)
timings.seconds()      # {"forward": 0.0123}

A part inside another is counted as itself alone: the parts add up to the time that passed.

`recorded()` keeps when each range began and ended, on the host's clock: from these of several ranks `lpgpu train
--timeline` draws who computes and who waits.
"""

import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch


class Timings:
    """Sum of the seconds, and number of uses, of each named part.

    On a CPU the clock is `time.perf_counter`. On a CUDA device two events are recorded on the current stream, and
    nothing waits for the device until `seconds()` is read. Only sums are kept: events are resolved as they complete
    and used again, so memory stays bounded however long the run.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.counts: dict[str, int] = {}
        self._sums: dict[str, float] = {}
        self._pending: deque[tuple[str, str | None, torch.cuda.Event, torch.cuda.Event]] = deque()
        self._spare: list[torch.cuda.Event] = []
        self._open: list[str] = []  # the parts under way, outermost first

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the body of a `with` statement as part `name`; a body that raises is counted too."""
        clock = self._device_clock if self.device.type == "cuda" else self._host_clock
        around = self._open[-1] if self._open else None
        self._open.append(name)
        self._sums.setdefault(name, 0.0)
        try:
            with nvtx_range(name), clock(name, around):
                yield
        finally:
            self._open.pop()

    def count_in(self, name: str, around: str, seconds: float) -> None:
        """Count seconds that passed within part `around`, and were measured otherwise, as part `name`."""
        self._sums.setdefault(name, 0.0)
        self._add(name, around, seconds)

    def seconds(self) -> dict[str, float]:
        """Seconds of each part so far, in the order of first use. On CUDA this waits for the parts still running."""
        self._resolve(wait=True)
        return dict(self._sums)

    @contextmanager
    def _host_clock(self, name: str, around: str | None) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._add(name, around, time.perf_counter() - start)

    @contextmanager
    def _device_clock(self, name: str, around: str | None) -> Iterator[None]:
        start, end = self._event(), self._event()
        start.record()
        try:
            yield
        finally:
            end.record()
            self._pending.append((name, around, start, end))
            self._resolve(wait=False)

    def _event(self) -> torch.cuda.Event:
        return self._spare.pop() if self._spare else torch.cuda.Event(enable_timing=True)

    def _resolve(self, *, wait: bool) -> None:
        """Turn completed pairs of events into sums, oldest first: all with `wait`, else up to the first unfinished."""
        while self._pending:
            name, around, start, end = self._pending[0]
            if wait:
                end.synchronize()
            elif not end.query():
                return
            self._pending.popleft()
            self._add(name, around, start.elapsed_time(end) / 1000.0)  # milliseconds
            self._spare += (start, end)

    def _add(self, name: str, around: str | None, seconds: float) -> None:
        self._sums[name] += seconds
        self.counts[name] = self.counts.get(name, 0) + 1
        if around is not None:
            self._sums[around] -= seconds


def _nvtx_annotate() -> Any:
    """`nvtx.annotate`; None where no tool listens, with LPGPU_NVTX=0, or without the package.

    A tool that listens has put its library into NVTX_INJECTION64_PATH, the only place NVTX looks at on Linux. For one
    that comes in another way, LPGPU_NVTX=1.
    """
    wanted = os.environ.get("LPGPU_NVTX", "1" if os.environ.get("NVTX_INJECTION64_PATH") else "0")
    if wanted == "0":
        return None
    try:
        from nvtx import annotate
    except ImportError:
        return None
    return annotate


_annotate = _nvtx_annotate()
_nothing = nullcontext()


def nvtx_range(name: str) -> AbstractContextManager[Any]:
    """A range called `name` in Nsight's timeline, and in what is `recorded()`; costs nothing where nobody listens."""
    if _events is not None:
        return _recorded_range(name, _events)
    return _nothing if _annotate is None else _annotate(name, domain="lpgpu")


Event = tuple[float, str | None]
"""When, on `time.perf_counter`, and the range that begins there; None: the innermost one ends."""

_events: list[Event] | None = None


@contextmanager
def recorded() -> Iterator[list[Event]]:
    """Within the context every range of this process is kept, in order; NVTX gets none of them.

    >>> with recorded() as events, nvtx_range("outer"), nvtx_range("inner"):
    ...     pass
    >>> [name for _, name in events]
    ['outer', 'inner', None, None]
    """
    global _events
    before, _events = _events, []
    try:
        yield _events
    finally:
        _events = before


@contextmanager
def _recorded_range(name: str, events: list[Event]) -> Iterator[None]:
    events.append((time.perf_counter(), name))
    try:
        yield
    finally:
        events.append((time.perf_counter(), None))
