"""SIGTERM, SIGHUP and Ctrl-C end training after the batch under way, on all ranks alike.

Batch systems send them before they kill; a second one of them ends the process at once.
"""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any, Self

from lpgpu.train.setup.errors import TrainingInterrupted
from lpgpu.train.setup.ranks import Ranks

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interruption:
    """Notes signals inside the `with` statement; `check` then raises, on all ranks at the same point of the program.

    Signals that are ignored, as nohup and a shell's background jobs have it, stay so. In a thread other than the main
    one, which Python tells of no signal, nothing changes.
    """

    def __init__(self, ranks: Ranks):
        self.ranks, self.noted = ranks, 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def check(self) -> None:
        """Raise `TrainingInterrupted` on all ranks where any has noted a signal. Collective."""
        noted = self.noted if self.ranks.alone else max(self.ranks.grid.communicator.allgather(self.noted))
        if noted:
            raise TrainingInterrupted(noted)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted = number
        self._restore()  # the next one acts as if nobody listened
        if self.ranks.is_root:
            name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            with suppress(OSError):  # print is no function to call in the middle of anything
                os.write(2, f"\nlpgpu: {name}: saving after this batch; once more ends it at once\n".encode())

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
