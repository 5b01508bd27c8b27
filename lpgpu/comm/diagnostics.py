"""What this process can send messages by, for `lpgpu info`. `python -m lpgpu.comm.diagnostics` prints MPI's part.

Initialising MPI may end a process for good, where an installation is broken. Without a launcher it is therefore asked
in a process of its own; under mpiexec or srun the launched ranks ask it themselves, together.
"""

import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from lpgpu.comm.choice import as_communicator
from lpgpu.comm.launcher import import_mpi, launched_by, world_of_launcher
from lpgpu.comm.process_grid import device_of, local_rank
from lpgpu.comm.transport import cuda_support

PATIENCE = 60.0  # seconds
_THREAD_LEVELS = ("single", "funneled", "serialized", "multiple")


def describe_ranks(environment: Mapping[str, str] = os.environ) -> dict[str, str] | None:
    """Name → finding. Under a launcher collective, and None on all ranks but the first."""
    launcher = launched_by(environment)
    found = describe_mpi(environment) if launcher != "torch.distributed" else _describe_launched_groups()
    return None if found is None else {**found, "distributed": _describe_torch()}


def describe_mpi(environment: Mapping[str, str] = os.environ) -> dict[str, str] | None:
    """What this MPI is, and whether it is CUDA-aware; else as `describe_ranks`."""
    if importlib.util.find_spec("mpi4py") is None:
        return {"MPI": "none: mpi4py is not installed"}
    if launched_by(environment) == "MPI":
        return _ask()
    try:
        asked = subprocess.run(
            [sys.executable, "-m", "lpgpu.comm.diagnostics"], capture_output=True, text=True, timeout=PATIENCE
        )
        return json.loads(asked.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"MPI": f"does not start: no answer in {PATIENCE:.0f} s"}
    except (IndexError, ValueError):
        said = " ".join(asked.stderr.split()[-30:])  # pyright: ignore[reportPossiblyUnboundVariable]
        return {"MPI": f"does not start: {said}"}


def _describe_launched_groups() -> dict[str, str] | None:
    communicator = as_communicator(world := world_of_launcher())
    ranks = communicator.allgather((platform.node(), str(device_of(local_rank(world)))))
    if communicator.rank > 0:
        return None
    return {"MPI": "not asked: torchrun started this process", **_places(ranks)}


def _describe_torch() -> str:
    """Which back ends of torch.distributed there are."""
    if not dist.is_available():
        return "torch.distributed is not in this build of torch"
    backends = ["gloo"] if dist.is_gloo_available() else []
    if dist.is_nccl_available():
        backends.append("nccl" if torch.cuda.is_available() else "nccl (no CUDA device)")
    return f"torch.distributed with {', '.join(backends) or 'no back end'}"


def _ask() -> dict[str, str] | None:
    try:
        MPI = import_mpi()
    except ImportError as error:
        return {"MPI": f"none: {error}"}
    comm = MPI.COMM_WORLD
    device = device_of(local_rank(comm))
    support = cuda_support()
    ranks = comm.gather((platform.node(), str(device), support.aware), root=0)
    if ranks is None:
        return None
    library = MPI.Get_library_version().splitlines()[0].partition(", package")[0].replace("\t", " ").strip("\0 ")
    levels = (MPI.THREAD_SINGLE, MPI.THREAD_FUNNELED, MPI.THREAD_SERIALIZED, MPI.THREAD_MULTIPLE)
    level = _THREAD_LEVELS[levels.index(MPI.Query_thread())]
    aware = all(rank_aware for _, _, rank_aware in ranks)
    found = {"MPI": f"{library}; thread level {level}", "CUDA-aware": f"{'yes' if aware else 'no'}: {support.evidence}"}
    return {**found, **_places(ranks)}


def _places(ranks: Sequence[Any]) -> dict[str, str]:
    """Where which rank is, if there are several."""
    if len(ranks) == 1:
        return {}
    places = ", ".join(f"{rank} on {node} {device}" for rank, (node, device, *_) in enumerate(ranks[:16]))
    return {"ranks": f"{len(ranks)}: {places}" + (", …" if len(ranks) > 16 else "")}


if __name__ == "__main__":
    print(json.dumps(_ask()))
