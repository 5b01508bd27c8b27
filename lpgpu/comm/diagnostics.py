"""What this process's MPI is and can do, for `lpgpu info`. `python -m lpgpu.comm.diagnostics` prints it.

Initialising MPI may end a process for good, where an installation is broken. Without a launcher it is therefore asked
in a process of its own; under mpiexec or srun the launched ranks ask it themselves, together.
"""

import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping

from lpgpu.comm.process_grid import device_of, local_rank
from lpgpu.comm.transport import cuda_support

PATIENCE = 60.0  # seconds
_LAUNCHED = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
_THREAD_LEVELS = ("single", "funneled", "serialized", "multiple")


def describe_mpi(environment: Mapping[str, str] = os.environ) -> dict[str, str] | None:
    """Name → finding. Under a launcher collective, and None on all ranks but the first."""
    if importlib.util.find_spec("mpi4py") is None:
        return {"MPI": "none: mpi4py is not installed"}
    if any(name in environment for name in _LAUNCHED):
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


def _ask() -> dict[str, str] | None:
    try:
        from mpi4py import MPI
    except ImportError as error:
        return {"MPI": f"mpi4py finds no MPI library: {error}"}
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
    if len(ranks) > 1:
        places = ", ".join(f"{rank} on {node} {device}" for rank, (node, device, _) in enumerate(ranks[:16]))
        found["ranks"] = f"{len(ranks)}: {places}" + (", …" if len(ranks) > 16 else "")
    return found


if __name__ == "__main__":
    print(json.dumps(_ask()))
