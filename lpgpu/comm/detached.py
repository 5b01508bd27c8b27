"""What is left of a communicator in a network that was pickled."""

from typing import Any


class Detached:
    """Rank and size of a communicator that was not pickled with its network. Whatever else is asked of it raises."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(
            f"this network was pickled on rank {self.rank} of {self.size}, and its communicator was not. Build it anew "
            "with a communicator, and carry its weights over by lpgpu.full_state_dict and load_full_state_dict"
        )
