"""Recording what a GPU is told to do, for it to be done again."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch

T = TypeVar("T")


class Recorder(Protocol):
    """What records the GPU's work; the tests have one for the CPU."""

    def refusal(self, device: torch.device) -> str | None:
        """Why work on this device cannot be recorded, or None."""
        ...

    def is_recording(self) -> bool:
        """Whether somebody is recording already: what runs now then becomes part of that."""
        ...

    def record(self, run: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """What replays the work of `run`, and what `run` returned; nothing has been computed yet."""
        ...


class CudaGraphs:
    """Records into torch.cuda.CUDAGraph, all that replay on a stream out of one pool of memory."""

    def __init__(self) -> None:
        self._pools: dict[tuple[int, int], Any] = {}

    def refusal(self, device: torch.device) -> str | None:
        """See `Recorder`."""
        if device.type != "cuda":
            return f"the tensors are on {device}"
        return None if torch.version.hip is None else "the GPU is AMD's"

    def is_recording(self) -> bool:
        """See `Recorder`."""
        return torch.cuda.is_current_stream_capturing()

    def record(self, run: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """See `Recorder`. Other threads (data loaders) may use the GPU meanwhile."""
        stream = torch.cuda.current_stream()
        key = stream.device_index, stream.cuda_stream
        if key not in self._pools:
            self._pools[key] = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pools[key], capture_error_mode="thread_local"):
            out = run()
        return graph.replay, out
