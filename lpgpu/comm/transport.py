"""How a tensor reaches MPI: from host memory, straight from the device, or staged through pinned host memory.

MPI knows nothing of streams: whatever it is handed has been synchronised with the current stream before. It reads and
writes plain bytes, contiguous, so that bf16 and fp16, which it does not know, travel as well.
"""

import ctypes
import functools
import os
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class CudaSupport:
    """Whether the MPI library reads and writes device memory, and how that is known."""

    aware: bool
    evidence: str


@functools.cache
def cuda_support() -> CudaSupport:
    """What the library says of itself, confirmed by a small transfer where there is a device to try it on.

    The transfer is only tried if the library says yes: one that cannot do it would crash. LPGPU_CUDA_AWARE=0 or 1
    decides instead of the query; a transfer that fails still means no.
    """
    forced, said = os.environ.get("LPGPU_CUDA_AWARE"), _query()
    if forced is not None:
        said = (forced == "1", f"LPGPU_CUDA_AWARE={forced}")
    says_yes, evidence = said
    if not says_yes:
        return CudaSupport(False, evidence)
    if not torch.cuda.is_available():
        return CudaSupport(True, f"{evidence}; not tried, as there is no CUDA device here")
    failure = _try_transfer()
    if failure:
        return CudaSupport(False, f"{evidence}, but a transfer of device memory failed: {failure}")
    return CudaSupport(True, f"{evidence}, and a transfer of device memory arrived")


def host_buffer(tensor: Tensor) -> Any:
    """The bytes of a contiguous host tensor, shared with it, as MPI takes them."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy()


class Outgoing:
    """A contiguous copy of a tensor, to be kept until MPI has read `buffer`."""

    def __init__(self, tensor: Tensor, *, direct: bool) -> None:
        tensor = tensor.detach()
        if tensor.device.type == "cpu":
            self.copy = tensor.clone(memory_format=torch.contiguous_format)
        elif direct:
            self.copy = tensor.clone(memory_format=torch.contiguous_format)
            synchronise(tensor)
        else:
            self.copy = _pinned_like(tensor)
            self.copy.copy_(tensor, non_blocking=True)
            synchronise(tensor)
        self.buffer = _buffer(self.copy)


class Incoming:
    """Memory that MPI writes to, for a tensor of the shape, dtype and device of `like`."""

    def __init__(self, like: Tensor, *, direct: bool) -> None:
        self._device = like.device
        if like.device.type == "cpu" or direct:
            self.landed = torch.empty(like.shape, dtype=like.dtype, device=like.device)
            synchronise(like)  # the memory may have served a kernel that still runs
        else:
            self.landed = _pinned_like(like)
        self.buffer = _buffer(self.landed)

    def tensor(self) -> Tensor:
        """What has arrived, on its device."""
        return self.landed.to(self._device, non_blocking=True)


def synchronise(tensor: Tensor) -> None:
    """Wait until the current stream of the tensor's device, if it is a GPU, has done its work."""
    if tensor.device.type == "cuda":
        torch.cuda.current_stream(tensor.device).synchronize()


@functools.cache
def say_that_states_are_staged(reason: str) -> None:
    """Warn, once, that device memory travels through the host; with LPGPU_STRICT=1, refuse.

    Raises:
        RuntimeError: with LPGPU_STRICT=1.
    """
    message = (
        f"messages between ranks are staged through host memory, which is slower: {reason}. See "
        "docs/running-on-many-gpus.md"
    )
    if os.environ.get("LPGPU_STRICT") == "1":
        raise RuntimeError(message)
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def _buffer(tensor: Tensor) -> Any:
    if tensor.device.type == "cpu":
        return host_buffer(tensor)
    return tensor.reshape(-1).view(torch.uint8)  # by __cuda_array_interface__


def _pinned_like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=torch.cuda.is_available())


def _query() -> tuple[bool, str]:
    """Open MPI's and MPICH's own answers, asked of the library that mpi4py has loaded."""
    from mpi4py import MPI

    for library in (None, MPI.__file__):
        try:
            symbols = ctypes.CDLL(library)
        except OSError:
            continue
        if hasattr(symbols, "MPIX_Query_cuda_support"):
            answer = bool(symbols.MPIX_Query_cuda_support())
            return answer, f"MPIX_Query_cuda_support() says {'yes' if answer else 'no'}"
        if hasattr(symbols, "MPIX_GPU_query_support"):
            answer = ctypes.c_int(0)
            failed = symbols.MPIX_GPU_query_support(0, ctypes.byref(answer))  # 0: MPIX_GPU_SUPPORT_CUDA
            yes = not failed and bool(answer.value)
            return yes, f"MPIX_GPU_query_support() says {'yes' if yes else 'no'}"
    return False, "the library has no function to ask"


def _try_transfer() -> str:
    """Send a few numbers from device memory to device memory of this process; what went wrong, or nothing."""
    from mpi4py import MPI

    sent = torch.arange(64, dtype=torch.uint8, device="cuda")
    received = torch.zeros_like(sent)
    synchronise(sent)
    try:
        MPI.COMM_SELF.Sendrecv(sent, 0, 0, received, 0, 0)
    except Exception as error:  # whatever MPI or mpi4py make of memory they cannot read
        return f"{type(error).__name__}: {error}"
    return "" if torch.equal(sent, received) else "other numbers arrived"
