"""Who takes part in a solve. Messages themselves leave from `lpgpu.mgrit.exchange` only."""

from lpgpu.comm.communicator import Communicator, SingleProcess, as_communicator

__all__ = ["Communicator", "SingleProcess", "as_communicator"]
