"""Timing on a GPU: replays of a CUDA graph, inputs rotated past the caches, medians with their spread.

Under `LPGPU_REHEARSE=1` the device is the CPU, kernels run in Triton's interpreter, and times mean nothing.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch

from lpgpu.kernels import dispatch
from lpgpu.kernels.precision import get_precision

T = TypeVar("T")
REHEARSING = os.environ.get("LPGPU_REHEARSE") == "1"
DEVICE = "cpu" if REHEARSING else "cuda"
EAGER_SECONDS = 0.7  # for the repeats of one call


@dataclass(frozen=True)
class Times:
    """Seconds of one call: the 20th, 50th and 80th percentile over replays."""

    p20: float
    p50: float
    p80: float


def fused() -> AbstractContextManager[None]:
    """Within it the fused kernels run, which on a GPU they do anyway."""
    return dispatch.backend("fused") if REHEARSING else nullcontext()


def same_precision() -> str:
    """Give cuDNN's convolutions and recurrent networks the precision of ours; which that is."""
    precision = get_precision()
    torch.backends.cudnn.allow_tf32 = precision in ("tf32", "bf16")
    return precision


def copies_past_cache(nbytes: int) -> int:
    """How many sets of inputs of this size are together twice the second-level cache, but no more than 16."""
    if REHEARSING:
        return 1
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(1, min(16, -(-2 * cache // max(nbytes, 1))))


def graph_times(run: Callable[[T], object], inputs: Sequence[T], *, replays: int = 30, calls: int = 1) -> Times:
    """Seconds of `run(each)`: captured `calls` times for every one of `inputs`, in turn, and replayed.

    `run` must not allocate outside the capture's pool nor wait for the device. It is warmed up on the capture's stream.
    """
    if REHEARSING:
        return eager_times(lambda: run(inputs[0]))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run(inputs[0])
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(calls):
            for each in inputs:
                run(each)
    graph.replay()
    return _percentiles(graph.replay, replays, calls * len(inputs))


def eager_times(run: Callable[[], object], *, repeats: int = 15) -> Times:
    """Seconds of `run()` as a user calls it, device and host together; fewer repeats of what takes long."""
    if REHEARSING:
        return _percentiles(run, 2, 1)
    for _ in range(3):
        run()
    began = time.perf_counter()
    _percentiles(run, 2, 1)
    affordable = int(EAGER_SECONDS / (time.perf_counter() - began) * 2)
    return _percentiles(run, max(3, min(repeats, affordable)), 1)


def both_times(run: Callable[[], object], *, repeats: int = 15) -> dict[str, Any]:
    """`run()` as a user calls it, and captured in a CUDA graph; where that cannot be done, why not."""
    found: dict[str, Any] = {"eager": asdict(eager_times(run, repeats=repeats))}
    try:
        found["graph"] = asdict(graph_times(lambda _: run(), [None], replays=repeats))
    except Exception as error:
        found["not captured"] = f"{type(error).__name__}: {error}"[:500]
    return found


def _percentiles(run: Callable[[], object], repeats: int, calls: int) -> Times:
    seconds = sorted(_host_seconds(run) if REHEARSING else _device_seconds(run) for _ in range(repeats))
    cuts = statistics.quantiles(seconds, n=10)
    return Times(cuts[1] / calls, statistics.median(seconds) / calls, cuts[7] / calls)


def _device_seconds(run: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def _host_seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
