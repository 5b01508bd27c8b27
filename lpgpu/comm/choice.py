"""From what a user passes as `comm` to the communicator that the solver works with."""

from typing import Any

from lpgpu.comm.communicator import Communicator, SingleProcess


def as_communicator(comm: Any) -> Communicator:
    """The solver's communicator for `comm`, which is None or an mpi4py communicator.

    Raises:
        TypeError: when `comm` is neither.
    """
    if comm is None:
        return SingleProcess()
    if not callable(getattr(comm, "Get_size", None)):
        raise TypeError(f"comm is {type(comm).__name__}; expected None (one process) or an mpi4py communicator")
    if comm.Get_size() == 1:
        return SingleProcess()
    from lpgpu.comm.mpi import mpi_communicator  # needs mpi4py

    return mpi_communicator(comm)
