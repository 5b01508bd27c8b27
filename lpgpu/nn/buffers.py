"""Buffer layers: the first and the last layers of a network, walked one by one, and whose they are."""

from collections.abc import Sequence
from typing import Any

from lpgpu.comm import Communicator
from lpgpu.mgrit import Partition


def sections(buffer: Any, local_num_steps: int, communicator: Communicator) -> tuple[int, int, int]:
    """How many of this rank's layers belong to the opening buffer, are between, and belong to the closing one.

    Raises:
        TypeError, ValueError: where `buffer` is no pair of numbers, or leaves the rank no layer between.
    """
    check_pair(buffer)
    opening = buffer[0] if communicator.rank == 0 else 0
    closing = buffer[1] if communicator.rank == communicator.size - 1 else 0
    if opening + closing >= local_num_steps:
        raise ValueError(
            f"buffer is {buffer!r}, and this rank has {local_num_steps} layers; expected fewer in its part of the "
            f"buffer, here {opening + closing}, so that the solver has some"
        )
    return opening, local_num_steps - opening - closing, closing


def partitions(
    blocks: Sequence[int], buffer: tuple[int, int], communicator: Communicator
) -> tuple[Partition | None, Partition | None]:
    """Whose all layers are (each rank has `blocks` of them), and those between the buffers; None: this process'."""
    if communicator.size == 1:
        return None, None
    between = list(blocks)
    between[0] -= buffer[0]
    between[-1] -= buffer[1]
    return Partition.of_blocks(blocks, communicator.rank), Partition.of_blocks(between, communicator.rank)


def check_pair(buffer: Any) -> None:
    """Raise TypeError or ValueError where `buffer` is no pair of integers ≥ 0."""
    if not isinstance(buffer, tuple | list) or len(buffer) != 2 or any(type(each) is not int for each in buffer):
        raise TypeError(f"buffer is {buffer!r}; expected two integers ≥ 0, such as (2, 2)")
    if min(buffer) < 0:
        raise ValueError(f"buffer is {buffer!r}; expected two integers ≥ 0, such as (2, 2)")
