"""How this process was started: on its own, by an MPI launcher (mpiexec, srun), or by torchrun."""

import atexit
import os
import sys
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist

from lpgpu.comm import failure

# set for each process by mpiexec of Open MPI and of MPICH, and by srun (in a batch script without it, no step)
_MPI_RANK = (("OMPI_COMM_WORLD_RANK", None), ("PMI_RANK", None), ("SLURM_PROCID", "SLURM_STEP_ID"))
# set by torchrun, and by whatever else starts a job for torch.distributed's env:// method
_TORCH_RANK = (("RANK", "MASTER_ADDR"),)
# the rank among those of one machine; set by torchrun, Open MPI, Slurm, MPICH (Hydra), Intel MPI and others
_LOCAL_RANK = (
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "SLURM_LOCALID",
    "MPI_LOCALRANKID",
    "PMI_LOCAL_RANK",
    "MV2_COMM_WORLD_LOCAL_RANK",
)


def launched_by(environment: Mapping[str, str] = os.environ) -> Literal["MPI", "torch.distributed"] | None:
    """What the launcher starts processes for. torchrun may itself have been started by an MPI launcher."""
    if _number(_TORCH_RANK, environment) is not None:
        return "torch.distributed"
    return None if _number(_MPI_RANK, environment) is None else "MPI"


def launched_rank(environment: Mapping[str, str] = os.environ) -> int | None:
    """This process's rank as its launcher says, before MPI is asked; None for a process on its own."""
    return _number(_TORCH_RANK if launched_by(environment) == "torch.distributed" else _MPI_RANK, environment)


def launched_local_rank(environment: Mapping[str, str] = os.environ) -> int | None:
    """Its rank among those of one machine, as the launcher says, if it does."""
    of_torch = launched_by(environment) == "torch.distributed"
    names = ("LOCAL_RANK",) if of_torch and "LOCAL_RANK" in environment else _LOCAL_RANK
    return _number([(name, None) for name in names], environment)


def world_of_launcher() -> Any:
    """All processes of this job as a `comm`; None for a process on its own, where MPI is not even imported. Collective.

    torch.distributed is initialised where the script has not done so.

    Raises:
        ImportError: when there is an MPI launcher and no MPI to import.
    """
    launcher = launched_by()
    if launcher == "torch.distributed":
        _initialise()
        return dist.group.WORLD
    return import_mpi().COMM_WORLD if launcher == "MPI" else None


def end_the_job(status: int, reason: str) -> None:
    """End this process and all others at once, where there are others; alone, return. `reason` is one line."""
    job = failure.current_job() or _initialised_job()
    if job is not None and job.size > 1:
        job.end(status, reason)


def import_mpi() -> Any:
    """mpi4py's MPI, which it initialises.

    Raises:
        ImportError: when mpi4py is missing or finds no MPI library.
    """
    try:
        from mpi4py import MPI
    except ImportError:
        raise
    except RuntimeError as error:  # the wheels of mpi4py look for a library at import
        raise ImportError(f"mpi4py finds no MPI library: {' '.join(str(error).split())}") from error
    return MPI


def _initialised_job() -> failure.Job | None:
    """The job whose MPI or process group was initialised, though no communicator was asked for yet."""
    if dist.is_available() and dist.is_initialized():
        from lpgpu.comm.store_job import StoreJob

        return StoreJob()
    if "mpi4py.MPI" in sys.modules:
        from lpgpu.comm.mpi_job import MPIJob

        return MPIJob()
    return None


def _initialise() -> None:
    if dist.is_initialized():
        return
    local_rank = launched_local_rank()
    if torch.cuda.is_available() and local_rank is not None:
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    dist.init_process_group()
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _number(names: Any, environment: Mapping[str, str]) -> int | None:
    for name, beside in names:
        if environment.get(name, "").isdigit() and (beside is None or beside in environment):
            return int(environment[name])
    return None
