"""Where the time goes: seconds per named part, and NVTX ranges for Nsight, under the same names.

timings = Timings(device)
with timings("forward"):
    y = net(x)
timings.seconds()      # {"forward": 0.0123}
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
        self._pending: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()
        self._spare: list[torch.cuda.Event] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the body of a `with` statement as part `name`; a body that raises is counted too."""
        clock = self._device_clock if self.device.type == "cuda" else self._host_clock
        with nvtx_range(name), clock(name):
            yield

    def seconds(self) -> dict[str, float]:
        """Seconds of each part so far, in the order of first use. On CUDA this waits for the parts still running."""
        self._resolve(wait=True)
        return dict(self._sums)

    @contextmanager
    def _host_clock(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._add(name, time.perf_counter() - start)

    @contextmanager
    def _device_clock(self, name: str) -> Iterator[None]:
        start, end = self._event(), self._event()
        self._sums.setdefault(name, 0.0)
        start.record()
        try:
            yield
        finally:
            end.record()
            self._pending.append((name, start, end))
            self._resolve(wait=False)

    def _event(self) -> torch.cuda.Event:
        return self._spare.pop() if self._spare else torch.cuda.Event(enable_timing=True)

    def _resolve(self, *, wait: bool) -> None:
        """Turn completed pairs of events into sums, oldest first: all with `wait`, else up to the first unfinished."""
        while self._pending:
            name, start, end = self._pending[0]
            if wait:
                end.synchronize()
            elif not end.query():
                return
            self._pending.popleft()
            self._add(name, start.elapsed_time(end) / 1000.0)  # milliseconds
            self._spare += (start, end)

    def _add(self, name: str, seconds: float) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + seconds
        self.counts[name] = self.counts.get(name, 0) + 1


def _nvtx_annotate() -> Any:
    """`nvtx.annotate`, or None without the package or with LPGPU_NVTX=0."""
    if os.environ.get("LPGPU_NVTX") == "0":
        return None
    try:
        from nvtx import annotate
    except ImportError:
        return None
    return annotate


_annotate = _nvtx_annotate()
_nothing = nullcontext()


def nvtx_range(name: str) -> AbstractContextManager[Any]:
    """A range called `name` in Nsight's timeline; free of cost without the `nvtx` package or with LPGPU_NVTX=0."""
    return _nothing if _annotate is None else _annotate(name, domain="lpgpu")
