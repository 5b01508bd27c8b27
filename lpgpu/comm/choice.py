"""From what a user passes as `comm` to the communicator that the solver works with.

`comm` is None, an mpi4py communicator, or a process group of torch.distributed.
"""

import os
import warnings
from typing import Any

import torch.distributed as dist

from lpgpu.comm.communicator import Communicator, SingleProcess


def as_communicator(comm: Any) -> Communicator:
    """The solver's communicator for `comm`. Collective over its ranks.

    Raises:
        TypeError: when `comm` is nothing of the kind.
        ValueError: when this process is not in it.
    """
    if comm is None:
        _warn_of_a_job_without_groups()
        return SingleProcess()
    if size_and_rank(comm)[0] == 1:
        return SingleProcess()
    if is_process_group(comm):
        from lpgpu.comm.process_group import process_group_communicator

        return process_group_communicator(comm)
    from lpgpu.comm.mpi import mpi_communicator  # needs mpi4py

    return mpi_communicator(comm)


def size_and_rank(comm: Any) -> tuple[int, int]:
    """How many processes `comm` has, and which of them this one is.

    Raises:
        TypeError, ValueError: as `as_communicator`.
    """
    if comm is None:
        return 1, 0
    if is_process_group(comm):
        _check_alive(comm)
        return comm.size(), comm.rank()
    if dist.is_available() and comm is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("comm is a process group without this process; pass the one that it is a member of")
    if not callable(getattr(comm, "Get_size", None)):
        raise TypeError(
            f"comm is {type(comm).__name__}; expected None (one process), an mpi4py communicator or a process group of "
            "torch.distributed, such as torch.distributed.group.WORLD, or mesh.get_group() of a DeviceMesh"
        )
    if not comm:
        raise ValueError("comm is MPI.COMM_NULL: this process is not in it, or it was freed")
    return comm.Get_size(), comm.Get_rank()


def split(comm: Any, color: int, key: int) -> Any:
    """What is to `comm` as `comm.Split(color, key)` to an mpi4py communicator: its ranks of one color. Collective."""
    if not is_process_group(comm):
        return comm.Split(color, key)
    from lpgpu.comm.process_group import split as split_group

    return split_group(comm, color, key)


def free(comm: Any) -> None:
    """Free what `split` has made, and the solver's communicator for it. Collective; None: nothing."""
    if comm is None:
        return
    if is_process_group(comm):
        from lpgpu.comm.process_group import free as free_group

        free_group(comm)
    else:
        from lpgpu.comm.mpi import free as free_communicator

        free_communicator(comm)


def is_process_group(comm: Any) -> bool:
    """Whether `comm` is a process group of torch.distributed."""
    return dist.is_available() and isinstance(comm, dist.ProcessGroup)


def _check_alive(group: Any) -> None:
    try:
        dist.get_process_group_ranks(group)
    except (KeyError, ValueError) as error:
        raise ValueError("comm is a process group that was destroyed; make a new one by torch.distributed") from error


def _warn_of_a_job_without_groups() -> None:
    """torch.distributed.group.WORLD is None until the process group is initialised."""
    launched = os.environ.get("TORCHELASTIC_RUN_ID") and os.environ.get("WORLD_SIZE", "1") != "1"
    if launched and not (dist.is_available() and dist.is_initialized()):
        warnings.warn(
            f"comm is None in a job of {os.environ['WORLD_SIZE']} processes whose process group is not initialised: "
            "this network is for one process. Call torch.distributed.init_process_group() before you pass "
            "torch.distributed.group.WORLD",
            RuntimeWarning,
            stacklevel=3,
        )
