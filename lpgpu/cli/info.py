"""`lpgpu info`: what a bug report needs."""

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

import lpgpu
from lpgpu.comm.diagnostics import describe_ranks
from lpgpu.kernels import dispatch, registry
from lpgpu.kernels.cuda import choice, modules
from lpgpu.kernels.precision import get_precision

PACKAGES = ("torch", "triton", "cupy", "mpi4py", "nvtx")


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `info`."""
    parser = commands.add_parser("info", help="versions, devices, and which kernels would run")
    parser.set_defaults(command=_show, parser=parser)


def _show(_: argparse.Namespace) -> None:
    """Print what `describe` finds; of several ranks, the first one prints."""
    if text := describe():
        print(text)


def describe() -> str:
    """Versions, devices, threads, the kernels' backend, and what ranks may send messages by, one per line.

    Under mpiexec or torchrun collective, and empty on all ranks but the first.
    """
    ranks = describe_ranks()
    if ranks is None:
        return ""
    lines = {"lpgpu": lpgpu.__version__, "python": f"{platform.python_version()} on {platform.platform()}"}
    lines |= {package: _installed_version(package) for package in PACKAGES}
    lines["threads"] = str(torch.get_num_threads())
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines["CUDA devices"] = ", ".join(devices) or "none"
    lines["kernels"] = _kernels(bool(devices))
    lines["operations"] = ", ".join(registry.packages())
    lines["cubins"] = modules.describe()
    lines["CUDA C++"] = choice.describe()
    lines |= ranks
    return "\n".join(f"{name:<14}{value}" for name, value in lines.items())


def _kernels(on_gpu: bool) -> str:
    """What runs on the tensors of this machine, and how fp32 products are made there."""
    asked = dispatch.current_backend()
    if not on_gpu or asked == "reference":
        return f"reference ({'as asked for' if asked == 'reference' else 'no CUDA device'})"
    return f"fused, fp32 products in {get_precision()}" if dispatch.has_triton() else "reference (triton is missing)"


def _installed_version(package: str) -> str:
    # CuPy's wheels carry the CUDA version in their name
    for name in (package, f"{package}-cuda13x", f"{package}-cuda12x"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "not installed"
