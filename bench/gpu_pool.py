"""Worker processes that do items one at a time, and are replaced when they die or hang. Standard library only."""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

WORKER = Path(__file__).resolve().with_name("gpu_worker.py")
START_SECONDS = 120.0  # for the imports and the device


class Rows:
    """Rows of one stage: a line of JSON each, flushed; shared by threads."""

    def __init__(self, path: Path, *, rehearsal: bool = False) -> None:
        self.path = path
        self._rehearsal, self._lock, self._began = rehearsal, threading.Lock(), time.monotonic()
        path.write_text("")

    def write(self, row: dict[str, Any]) -> None:
        """Append it, with the seconds since the stage began."""
        row = {**row, "at": round(time.monotonic() - self._began, 2)} | ({"rehearsal": True} if self._rehearsal else {})
        with self._lock, self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def counts(self) -> dict[str, int]:
        """How many there are, and how many say what failed."""
        rows = [json.loads(line) for line in self.path.read_text().splitlines()]
        return {"rows": len(rows), "failed": sum("failed" in row for row in rows)}


class Pool:
    """Does items in `workers` processes until they are done or the clock says `ends`."""

    def __init__(
        self, stage: str, env: dict[str, str], rows: Rows, *, workers: int, item_seconds: float, ends: float,
        program: Path = WORKER,
    ) -> None:  # fmt: skip
        self._command = [sys.executable, str(program), stage]
        self._env, self._rows, self._workers = env, rows, workers
        self._item_seconds, self._ends = item_seconds, ends
        self._left: SimpleQueue[str] = SimpleQueue()

    def run(self, names: list[str]) -> None:
        """All of them, in order of their start; what there is no time for gets one row together."""
        for name in names:
            self._left.put(name)
        threads = [threading.Thread(target=self._serve) for _ in range(min(self._workers, len(names)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if left := list(self._remaining()):
            self._rows.write({"item": "left out, for lack of time", "names": left})

    def _remaining(self) -> Iterator[str]:
        with contextlib.suppress(Empty):
            while True:
                yield self._left.get_nowait()

    def _serve(self) -> None:
        """One worker after the other, as long as there are items and time."""
        worker: _Worker | None = None
        try:
            while time.monotonic() < self._ends:
                try:
                    name = self._left.get_nowait()
                except Empty:
                    return
                try:
                    started_by = min(self._ends, time.monotonic() + START_SECONDS)
                    worker = worker or _Worker(self._command, self._env, started_by)
                    for row in worker.do(name, min(self._ends, time.monotonic() + self._item_seconds)):
                        self._rows.write({"item": name, **row})
                except _Lost as lost:
                    key = "failed" if time.monotonic() < self._ends else "cut off"
                    self._rows.write({"item": name, key: str(lost)})
                    if worker is not None:
                        worker.end()
                    worker = None
        finally:
            if worker is not None:
                worker.end()


class _Lost(Exception):
    """A worker died or hung; how, and the end of what it said."""


class _Worker:
    def __init__(self, command: list[str], env: dict[str, str], ends: float) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the worker)
        self._process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, start_new_session=True
        )
        self._buffer = b""
        try:
            self._line(ends, "starting")
        except _Lost:
            self.end()
            raise

    def do(self, name: str, ends: float) -> Iterator[dict[str, Any]]:
        """The rows of an item.

        Raises:
            _Lost: where the worker ends, or the clock says `ends`, before they are complete.
        """
        try:
            opened(self._process.stdin).write(name.encode() + b"\n")
            opened(self._process.stdin).flush()
        except OSError as error:
            raise _Lost(f"the worker had gone: {error!r}") from None
        while "end" not in (row := self._line(ends, name)):
            yield row

    def end(self) -> None:
        """Kill it, and the compilers it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._said):
            with contextlib.suppress(OSError):
                opened(pipe).close()

    def _line(self, ends: float, doing: str) -> dict[str, Any]:
        output = opened(self._process.stdout)
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([output], [], [], max(0.0, ends - time.monotonic()))
            if not ready:
                raise _Lost(f"{doing}: no end within its time; killed. {self._last_words()}")
            came = os.read(output.fileno(), 65536)
            if not came:
                raise _Lost(f"{doing}: the worker died (status {self._process.wait()}). {self._last_words()}")
            self._buffer += came
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def _last_words(self) -> str:
        size = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, size - 2000))
        return self._said.read().decode(errors="replace")


def opened(pipe: Any) -> Any:
    """The pipe, which was asked for.

    Raises:
        RuntimeError: where there is none.
    """
    if pipe is None:
        raise RuntimeError("the process was started without this pipe")
    return pipe
