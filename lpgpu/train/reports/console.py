"""What is said to people while a program runs. Whether anybody reads it makes no difference to the program."""

import os
import sys
from contextlib import suppress
from typing import Any


class Console:
    """sys.stderr, whatever that is at the moment. Without one, or once its reader has gone, nothing is written."""

    def write(self, text: str) -> int:
        """Write `text`; its length, as files return it."""
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        """See that it is read soon."""
        self._try("flush")

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def _try(self, call: str, *arguments: str) -> None:
        if sys.stderr is None:
            return
        try:
            getattr(sys.stderr, call)(*arguments)
        except (OSError, ValueError):
            with suppress(OSError, ValueError):  # what is left in its buffer would fail again at the end
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


console = Console()


def tell(text: str) -> None:
    """A line to stderr."""
    console.write(f"{text}\n")
    console.flush()
