"""What kernels must know of a GPU: its compute capability, and the shared memory that one program may take there."""

from functools import cache

import torch

_SHARED_BYTES = {80: 166_912, 86: 101_376, 87: 166_912, 89: 101_376, 90: 232_448, 100: 232_448, 103: 232_448}
_LEAST_SHARED_BYTES = 101_376
_LEAST_ARCH = 80


def shared_limit(arch: int) -> int:
    """Shared memory that one program may take, in bytes; for an unknown architecture the least known one's."""
    return _SHARED_BYTES.get(arch, _LEAST_SHARED_BYTES)


@cache
def arch_of(device: torch.device) -> int:
    """The compute capability, as 90 for sm_90; on a CPU, where Triton's interpreter runs, that of an H100."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@cache
def multiprocessors_of(device: torch.device) -> int:
    """How many there are; on a CPU, where Triton's interpreter runs, as many as an H100 has."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


@cache
def why_unsupported(device: torch.device) -> str | None:
    """Why fused kernels cannot run on this GPU, or None: their tiles are for NVIDIA's, of capability 8.0 and above."""
    if device.type != "cuda":
        return None
    if torch.version.hip is not None:
        return "its tiles are for NVIDIA's GPUs; this one is AMD's"
    if (arch := arch_of(device)) < _LEAST_ARCH:
        return f"it takes a GPU of compute capability 8.0 or above; this one's is {arch // 10}.{arch % 10}"
    return None
