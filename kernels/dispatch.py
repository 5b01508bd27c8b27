"""Which backend runs an operation, and why: CUDA tensors take the fused kernels, CPU tensors the reference.

`LPGPU_KERNELS` (auto, fused or reference; read once), or `with backend("reference")`, overrides that. Where a fused
kernel refuses tensors on a GPU, the reference runs instead and says so once; `LPGPU_STRICT=1` makes that an error.
Counters tell what ran. "fused" on CPU tensors needs Triton's interpreter (`TRITON_INTERPRET=1`,
before lpgpu is imported).
"""

import importlib.util
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal, get_args

from torch import Tensor

Backend = Literal["auto", "fused", "reference"]
_BACKENDS = get_args(Backend)

calls: Counter[tuple[str, str]] = Counter()
"""(operation, "fused" or "reference") → calls so far."""
launches: Counter[str] = Counter()
"""Kernel → launches so far."""
reasons: dict[str, str] = {}
"""Operation → one line saying why its latest call took the backend it took."""

_ASKED_FOR = "the reference was asked for"
_NOT_ON_A_GPU = "the tensors are not on a GPU: the reference"
_backend: Backend | None = None
_said: set[tuple[str, str]] = set()


class KernelFallbackWarning(RuntimeWarning):
    """A slower path was taken on a GPU."""


class KernelFallbackError(RuntimeError):
    """As KernelFallbackWarning under `LPGPU_STRICT=1`, or where "fused" was asked for."""


@contextmanager
def backend(name: Backend) -> Iterator[None]:
    """Within the context operations run on this backend; "auto" chooses by the tensors' device.

    Those of all threads do: autograd runs the backward pass of CUDA tensors in a thread of its own.

    Raises:
        ValueError: for a name that is none of these.
    """
    global _backend
    before, _backend = _backend, _checked(name, "backend")
    try:
        yield
    finally:
        _backend = before


def current_backend() -> Backend:
    """What the context manager says, else what `LPGPU_KERNELS` says, else "auto".

    Raises:
        ValueError: where `LPGPU_KERNELS` is none of auto, fused, reference.
    """
    return _backend or _of_environment()


def is_fused(operation: str, like: Tensor, unsupported: str | None = None) -> bool:
    """Whether `operation` on tensors like `like` takes its fused kernel; counts the call and keeps the reason.

    `unsupported` is why the fused kernel cannot take these tensors, or None.

    Raises:
        KernelFallbackError: where the fused kernel was asked for, or strictness was, and it cannot run.
    """
    fused, reason = _decide(operation, like.device.type, unsupported)
    calls[operation, "fused" if fused else "reference"] += 1
    reasons[operation] = reason
    return fused


def say_once(operation: str, message: str, *, stacklevel: int = 4) -> None:
    """Warn that an operation takes a slower path on a GPU, the first time for the same words."""
    if (operation, message) not in _said:
        _said.add((operation, message))
        warnings.warn(message, KernelFallbackWarning, stacklevel=stacklevel)


def could_fuse(like: Tensor) -> bool:
    """Whether fused kernels come into question for tensors like `like`, whatever the operation."""
    wanted = current_backend()
    return wanted == "fused" or (wanted == "auto" and like.device.type == "cuda")


def count_reference(operation: str) -> None:
    """Count a call that takes the reference because no fused kernel comes into question."""
    calls[operation, "reference"] += 1
    reasons[operation] = _NOT_ON_A_GPU if current_backend() == "auto" else _ASKED_FOR


@cache
def _of_environment() -> Backend:
    """Read once: a serial solve asks thousands of times."""
    return _checked(os.environ.get("LPGPU_KERNELS", "auto"), "LPGPU_KERNELS")


@cache
def has_triton() -> bool:
    """Whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _decide(operation: str, device: str, unsupported: str | None) -> tuple[bool, str]:
    wanted = current_backend()
    if wanted == "reference":
        return False, _ASKED_FOR
    if wanted == "auto" and device != "cuda":
        return False, _NOT_ON_A_GPU
    if not has_triton():
        unsupported = "triton is not installed (pip install triton)"
    elif device != "cuda" and not interpreted():
        unsupported = f"{device} tensors need Triton's interpreter (TRITON_INTERPRET=1)"
    if unsupported is None:
        return True, "fused"
    message = f"{operation}: the fused kernel cannot run: {unsupported}"
    if wanted == "fused" or os.environ.get("LPGPU_STRICT") == "1":
        raise KernelFallbackError(f"{message}. LPGPU_KERNELS=reference takes the slower path")
    say_once(operation, f"{message}; the slower reference runs instead", stacklevel=5)
    return False, unsupported


def _checked(name: str, where: str) -> Backend:
    if name not in _BACKENDS:
        raise ValueError(f"{where} is {name!r}; expected one of {', '.join(_BACKENDS)}")
    return name  # pyright: ignore[reportReturnType]
