"""A recorder of work for tests without a GPU: what PyTorch does within is written down, and done again by a replay.

As a CUDA graph it reads and writes the very tensors it was recorded with, and knows nothing of the Python around them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")
_WAITING = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)


class CPURecorder:
    """As `lpgpu.nn.graphs.Recorder`; counts recordings, replays and the operations that these save."""

    def __init__(self) -> None:
        self.recordings = self.replays = 0
        self.operations = 0
        self.is_replaying = False

    def refusal(self, device: torch.device) -> str | None:
        return None

    def is_recording(self) -> bool:
        return self.is_replaying

    def record(self, run: Callable[[], T]) -> tuple[Callable[[], None], T]:
        self.recordings += 1
        written = _Written()
        with _said_to_be_captured(), written:
            out = run()
        self.operations += len(written.operations)
        for t in written.made:
            if t.is_floating_point():
                t.fill_(torch.nan)  # a capture computes nothing

        def replay() -> None:
            self.replays += 1
            self.is_replaying = True
            with torch.no_grad():
                written.again()
            self.is_replaying = False

        return replay, out


class _Written(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple, dict, Any]] = []
        self.made: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in _WAITING:
            raise RuntimeError(f"{func} waits for the device, which a recording cannot")
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, out))
        given = {_storage(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        self.made += [t for t in tree_leaves(out) if isinstance(t, Tensor) and _storage(t) not in given]
        return out

    def again(self) -> None:
        for func, args, kwargs, out in self.operations:
            for before, now in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(before, Tensor) and _storage(before) != _storage(now):
                    before.copy_(now)


def _storage(t: Tensor) -> int:
    return t.untyped_storage()._cdata


@contextmanager
def _said_to_be_captured() -> Iterator[None]:
    with patch("lpgpu.mgrit.convergence.is_captured", lambda u: True):
        yield
