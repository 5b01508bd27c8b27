"""Who takes part in a solve. Messages themselves leave from `lpgpu.mgrit.exchange` only.

communicator   what the solver asks of its fellow ranks; one process
choice         the communicator for what a user passes as `comm`
launcher       how this process was started: alone, by an MPI launcher, by torchrun
process_grid   ranks that share layers × ranks that share data
diagnostics    what this process can send messages by, for `lpgpu info`

mpi            ranks under MPI
transport      how a tensor reaches MPI: host memory, device memory, staging
process_group  ranks of a process group of torch.distributed: agreements and host memory, by gloo
nccl           its GPUs, by NCCL
groups         new process groups
background     waits that the main thread can give up

agreement      ranks that raise together, or not at all
failure        nothing hangs: what happens when one rank ends before the others
watchdog       nothing hangs: what a rank looks out for while it waits
mpi_job        both of these under MPI
store_job      both of these by the store of torch.distributed
reversal       the ranks in the opposite order
detached       what is left of a communicator in a pickled network
freed          what is left of one that was freed
"""

from lpgpu.comm.choice import as_communicator
from lpgpu.comm.communicator import Arrival, Communicator, SingleProcess
from lpgpu.comm.process_grid import ProcessGrid

__all__ = ["Arrival", "Communicator", "ProcessGrid", "SingleProcess", "as_communicator"]
