"""A table in a file, which several processes fill together, each row once.

    .npy header | rows, float32 [n, ...] | flags, uint8 [n]: 1 for a row that is on the disk

No process cuts or replaces the file, and to make it twice changes nothing: none waits until another has made it. A row
is claimed by a lock on its flag, which ends with its process.
"""

import io
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np


class SharedTable:
    """A table of this shape in the file `path`, made where it is not there; a context manager, which closes the file.

    Raises OSError where the file cannot be made, read or written.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]):
        self.path, self.shape = path, shape
        header = _header(shape)
        self._rows, self._row_bytes = len(header), 4 * math.prod(shape[1:])
        self._flags = self._rows + shape[0] * self._row_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._write(header, 0)
        if os.fstat(self._file).st_size < self._flags + shape[0]:
            os.ftruncate(self._file, self._flags + shape[0])  # longer, by zeros

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def is_done(self, place: int) -> bool:
        """Whether a row is there."""
        return os.pread(self._file, 1, self._flags + place) == b"\1"

    def claim(self, place: int, *, wait: bool) -> bool:
        """Whether a row is this process's own to write; if it is another's, `wait` until that releases it, or ends.

        On a file system without locks every process gets every row, and all write the same to it.
        """
        import fcntl  # not on Windows, where all that needs no table still runs

        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, self._flags + place)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            pass
        return True

    def release(self, place: int) -> None:
        """Give a claim back."""
        import fcntl

        with suppress(OSError):
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._flags + place)

    def write(self, place: int, values: np.ndarray) -> None:
        """Write the first values of a row, zeros behind them; it is done when they are on the disk."""
        row = np.zeros(self.shape[1:], np.float32)
        row[: len(values)] = values
        self._write(row.tobytes(), self._rows + place * self._row_bytes)
        os.fsync(self._file)
        self._write(b"\1", self._flags + place)

    def mapped(self) -> np.ndarray:
        """The rows, mapped; what is written to them stays in this process."""
        with os.fdopen(os.dup(self._file), "rb") as file:
            return np.memmap(file, np.float32, "c", self._rows, self.shape)

    def _write(self, data: bytes, offset: int) -> None:
        while data:
            written = os.pwrite(self._file, data, offset)
            data, offset = data[written:], offset + written


def _header(shape: tuple[int, ...]) -> bytes:
    """With it the file is one of NumPy's."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()
