"""Cubins: where they are, how they are built, and launching what is in them.

`nvcc` builds SOURCE.cu to SOURCE.sm_90a.cubin; an installed lpgpu has them where nvcc was there when it was built.
`LPGPU_CUBINS` names a folder that is searched first.
"""

import importlib.util
import os
import subprocess
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from lpgpu.kernels.devices import arch_of, multiprocessors_of, shared_limit

TARGETS = {80: "sm_80", 86: "sm_80", 87: "sm_80", 89: "sm_80", 90: "sm_90a"}
"""Compute capability → the target whose cubin runs there: binaries run on later minor versions, sm_90a on 9.0 only."""
_NEWEST = {80: "sm_80", 90: "sm_90a"}  # a capability of each target
SOURCES = ("implicit_gru/gru_march", "implicit_gru/gru_march_fp32", "affine_scan/scan", "conv_step/conv_sweep")
"""Every source, as package/name within `lpgpu.kernels`."""

_NON_PORTABLE_CLUSTER_SIZE_ALLOWED = 14  # CU_FUNC_ATTRIBUTE_…, which CuPy has no name for


def source_of(name: str) -> Path:
    """The CUDA C++ file."""
    return Path(__file__).parents[1] / f"{name}.cu"


def command(name: str, target: str, out: Path, *, nvcc: str = "nvcc") -> list[str]:
    """What builds a cubin; CMakeLists.txt has the same flags."""
    code = f"-gencode=arch={target.replace('sm', 'compute')},code={target}"
    options = ["-O3", "-std=c++17", "-lineinfo", "--split-compile=0"]
    return [nvcc, "-cubin", code, *options, "-o", str(out), str(source_of(name))]


def build(name: str, target: str, folder: Path, *, nvcc: str = "nvcc") -> Path:
    """Build a cubin into `folder`.

    Raises:
        RuntimeError: with the compiler's messages, where it fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"{Path(name).name}.{target}.cubin"
    unfinished = out.with_suffix(f".{os.getpid()}")  # another process may build the same
    done = subprocess.run(command(name, target, unfinished, nvcc=nvcc), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"nvcc could not compile {source_of(name)}:\n{done.stdout}{done.stderr}")
    return unfinished.rename(out)


@cache
def cubin(name: str, arch: int) -> Path | None:
    """The cubin of a source for a compute capability, or None where there is none."""
    if arch not in TARGETS:
        return None
    package, _, stem = name.rpartition("/")
    files = (folder / f"{stem}.{TARGETS[arch]}.cubin" for folder in folders_of(package))
    return next((file for file in files if file.is_file()), None)


def folders_of(package: str) -> list[Path]:
    """Where cubins of a package are looked for: `LPGPU_CUBINS` first, then where the package is installed."""
    installed = [Path(each) for each in import_module(f"lpgpu.kernels.{package.replace('/', '.')}").__path__]
    named = os.environ.get("LPGPU_CUBINS")
    return [Path(named), *installed] if named else installed


def describe() -> str:
    """Which cubins there are, and whether they can be loaded, in a line."""
    found = [f"{source}.{target}" for source in SOURCES for arch, target in _NEWEST.items() if cubin(source, arch)]
    if not found:
        return f"none ({how_built()})"
    listed = f"{', '.join(found)} ({how_built()})"
    return listed if has_cupy() else f"{listed}; not loaded without CuPy"


def how_built() -> str:
    """What the build has said of the cubins that are installed."""
    said = (folder / "cubins.txt" for folder in folders_of("cuda"))
    file = next((file for file in said if file.is_file()), None)
    return file.read_text(encoding="utf-8").strip() if file else "lpgpu was not built, it runs from its sources"


def refusal(name: str, device: torch.device) -> str | None:
    """Why nothing of this source can be launched on a GPU, or None."""
    if not has_cupy():
        return "CuPy is not installed (pip install cupy-cuda13x)"
    arch = arch_of(device)
    if arch not in TARGETS:
        return f"there is no CUDA C++ kernel for compute capability {arch // 10}.{arch % 10}"
    if cubin(name, arch) is None:
        return f"{Path(name).name}.{TARGETS[arch]}.cubin was not built ({how_built()})"
    return None


@cache
def has_cupy() -> bool:
    """Whether CuPy can be imported."""
    return importlib.util.find_spec("cupy") is not None


@cache
def function(name: str, kernel: str, device: torch.device, *, cooperative: bool) -> Any:
    """A kernel of a cubin, allowed all the shared memory that a block may take, and clusters of any size.

    Raises:
        RuntimeError: where it cannot be loaded.
    """
    import cupy
    from cupy.cuda import driver

    if reason := refusal(name, device):
        raise RuntimeError(f"{kernel} cannot be loaded: {reason}")
    with cupy.cuda.Device(device.index):
        loaded = _module(name, device, cooperative).get_function(kernel)
        loaded.max_dynamic_shared_size_bytes = shared_limit(arch_of(device))
        if arch_of(device) == 90:
            driver.funcSetAttribute(loaded.kernel.ptr, _NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1)
    return loaded


def resident_blocks(loaded: Any, threads: int, shared_bytes: int, device: torch.device) -> int:
    """How many blocks of a kernel the device holds at once. (CuPy shrinks a larger cooperative grid without a word.)"""
    return _resident_blocks(loaded.kernel.ptr, threads, shared_bytes, device)


@cache
def _resident_blocks(pointer: int, threads: int, shared_bytes: int, device: torch.device) -> int:
    from cupy.cuda import driver

    return driver.occupancyMaxActiveBlocksPerMultiprocessor(pointer, threads, shared_bytes) * multiprocessors_of(device)


def launch(
    loaded: Any, grid: tuple[int, int], threads: int, shared_bytes: int, arguments: Any, device: torch.device
) -> None:
    """Launch on the device's current stream in torch. `arguments`: a NumPy array of one element, passed by value."""
    import cupy

    with cupy.cuda.Device(device.index):
        stream = cupy.cuda.Stream.from_external(_Stream(torch.cuda.current_stream(device).cuda_stream))
        loaded((*grid, 1), (threads, 1, 1), (arguments,), shared_mem=shared_bytes, stream=stream)


class _Stream:
    """A stream of torch's, by CUDA's protocol for streams of other libraries."""

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.pointer


@cache
def _module(name: str, device: torch.device, cooperative: bool) -> Any:
    import cupy

    return cupy.RawModule(path=str(cubin(name, arch_of(device))), enable_cooperative_groups=cooperative)
