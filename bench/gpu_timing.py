"""Timing on a GPU: replays of a CUDA graph, inputs rotated past the caches, medians with their spread."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Times:
    """Seconds of one call: the 20th, 50th and 80th percentile over replays."""

    p20: float
    p50: float
    p80: float


def copies_past_cache(nbytes: int) -> int:
    """How many sets of inputs of this size are together twice the second-level cache, but no more than 16."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(1, min(16, -(-2 * cache // max(nbytes, 1))))


def graph_times(run: Callable[[T], object], inputs: Sequence[T], *, replays: int = 30, calls: int = 1) -> Times:
    """Seconds of `run(each)`: captured `calls` times for every one of `inputs`, in turn, and replayed.

    `run` must not allocate outside the capture's pool nor wait for the device. It is warmed up on the capture's stream.
    """
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
    seconds = []
    for _ in range(replays):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3 / (calls * len(inputs)))
    cuts = statistics.quantiles(seconds, n=10)
    return Times(cuts[1], statistics.median(seconds), cuts[7])


def eager_times(run: Callable[[], object], *, repeats: int = 15) -> Times:
    """Seconds of `run()` as a user calls it, device and host together, for what cannot be captured."""
    for _ in range(3):
        run()
    seconds = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    cuts = statistics.quantiles(seconds, n=10)
    return Times(cuts[1], statistics.median(seconds), cuts[7])
