"""`lpgpu info`: what a bug report needs."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

import lpgpu

PACKAGES = ("torch", "triton", "cupy", "mpi4py", "nvtx")


def describe() -> str:
    """Versions, devices, threads and the kernels' backend, one per line."""
    lines = {"lpgpu": lpgpu.__version__, "python": f"{platform.python_version()} on {platform.platform()}"}
    lines |= {package: _installed_version(package) for package in PACKAGES}
    lines["threads"] = str(torch.get_num_threads())
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines["CUDA devices"] = ", ".join(devices) or "none"
    lines["kernels"] = f"reference ({'CUDA' if devices else 'CPU'})"
    return "\n".join(f"{name:<14}{value}" for name, value in lines.items())


def _installed_version(package: str) -> str:
    # CuPy's wheels carry the CUDA version in their name
    for name in (package, f"{package}-cuda13x", f"{package}-cuda12x"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "not installed"
