"""Waits that the main thread can give up: they happen in a thread of their own."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future


class Background:
    """Runs one call after the other in a daemon thread.

    A call of C++ that waits cannot be interrupted. Ctrl-C reaches a main thread that waits for the call's future.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], object], Future[object]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, call: Callable[[], object]) -> "Future[object]":
        """Have `call` run; its result, or what it raised, is the future's."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="lpgpu waits", daemon=True)
            self._thread.start()
        future: Future[object] = Future()
        self._calls.put((call, future))
        return future

    def stop(self) -> None:
        """End the thread once it has made the calls that it was given."""
        self._calls.put(None)

    def _run(self) -> None:
        while (given := self._calls.get()) is not None:
            call, future = given
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)
