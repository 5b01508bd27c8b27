"""Who takes part in a solve. Messages themselves leave from `lpgpu.mgrit.exchange` only.

communicator   what the solver asks of its fellow ranks; one process
choice         the communicator for what a user passes as `comm`
mpi            ranks under MPI
transport      how a tensor reaches MPI: host memory, device memory, staging
agreement      ranks that raise together, or not at all
failure        nothing hangs: what happens when one rank ends before the others
watchdog       nothing hangs: what a rank looks out for while it waits
mpi_job        both of these under MPI
reversal       the ranks in the opposite order
detached       what is left of a communicator in a pickled network
process_grid   ranks that share layers × ranks that share data
diagnostics    what this MPI can do
"""

from lpgpu.comm.choice import as_communicator
from lpgpu.comm.communicator import Arrival, Communicator, SingleProcess
from lpgpu.comm.process_grid import ProcessGrid

__all__ = ["Arrival", "Communicator", "ProcessGrid", "SingleProcess", "as_communicator"]
