"""Who takes part in a solve. Messages themselves leave from `lpgpu.mgrit.exchange` only.

communicator   what the solver asks of its fellow ranks; one process
mpi            ranks under MPI
transport      how a tensor reaches MPI: host memory, device memory, staging
departure      nothing hangs: what happens when one rank ends before the others
about          what this MPI can do
process_grid   ranks that share layers × ranks that share data
"""

from lpgpu.comm.communicator import Arrival, Communicator, SingleProcess, as_communicator
from lpgpu.comm.process_grid import ProcessGrid

__all__ = ["Arrival", "Communicator", "ProcessGrid", "SingleProcess", "as_communicator"]
