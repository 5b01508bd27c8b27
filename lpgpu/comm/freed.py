"""What is left of a communicator that was freed."""

from typing import Any, NoReturn


class Freed:
    """In the place of what a freed communicator worked with. Whatever is asked of it raises."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        refuse_freed(self._what)


def refuse_freed(what: str) -> NoReturn:
    """Say that `what` can be used no more.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(
        f"{what} was freed (ProcessGrid.free(), or the end of its `with` statement): make a new ProcessGrid, and "
        "networks with its layer_comm; weights are carried over by full_state_dict and load_full_state_dict, before"
    )
