"""The original files of the UCI HAR data set, as published: text, one window a line, one file per channel.

    UCI HAR Dataset/{train,test}/Inertial Signals/{body_acc,body_gyro,total_acc}_{x,y,z}_{train,test}.txt
    UCI HAR Dataset/{train,test}/y_{train,test}.txt

Reads them from a folder or from inside a zip, whole or cut to fewer lines: what belongs to the data set and what may be
trained on is for `lpgpu.data.uci_har` to say.
"""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lpgpu.data.errors import DataError
from lpgpu.data.files import DAMAGES, unreadable

FOLDER = "UCI HAR Dataset"
ZIP = f"{FOLDER}.zip"
PARTS = ("train", "test")
CHANNELS = tuple(f"{signal}_{axis}" for signal in ("body_acc", "body_gyro", "total_acc") for axis in "xyz")
STEPS = 128
CLASSES = 6


@dataclass(frozen=True)
class Recordings:
    """One part of the data set.

    Attributes:
        signals: float32 `[n, 128, 9]`, windows of 2.56 s at 50 Hz, channels as in `CHANNELS`.
        labels: int64 `[n]`, 0 … 5: the published label 1 … 6 minus 1.
    """

    signals: np.ndarray
    labels: np.ndarray


def read_part(root: "Path | zipfile.Path", part: str) -> Recordings:
    """The recordings of `part`, "train" or "test", below `root`, the folder that holds `train` and `test`.

    Raises `DataError` when a file is missing, damaged, or does not fit the others.
    """
    labels = _labels(root / part / f"y_{part}.txt")
    channels = [_signal(root / part / "Inertial Signals" / f"{name}_{part}.txt", len(labels)) for name in CHANNELS]
    return Recordings(np.stack(channels, axis=-1), labels)


@contextmanager
def opened_zip(path: Path) -> Iterator[zipfile.Path]:
    """The folder `UCI HAR Dataset` inside the zip `path`, also where that zip holds the zip of this name.

    Raises `DataError` when the zip is damaged or holds no such folder.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if ZIP not in archive.namelist():
                yield _folder_inside(archive, path)
                return
            with archive.open(ZIP) as file, zipfile.ZipFile(file) as inner:
                yield _folder_inside(inner, path)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise unreadable(path, error, "the zip that the UCI repository distributes") from error


def _folder_inside(archive: zipfile.ZipFile, path: Path) -> zipfile.Path:
    root = zipfile.Path(archive, f"{FOLDER}/")
    if not root.exists():
        raise DataError(f"{path} holds no folder {FOLDER!r}; expected the zip that the UCI repository distributes")
    return root


def _labels(path: "Path | zipfile.Path") -> np.ndarray:
    published = _table(path, np.int64)
    if published.shape[1] != 1 or published.min() < 1 or published.max() > CLASSES:
        raise DataError(f"{path} is damaged: expected one label 1 … {CLASSES} on each line")
    return published[:, 0] - 1


def _signal(path: "Path | zipfile.Path", windows: int) -> np.ndarray:
    signal = _table(path, np.float32)
    if signal.shape != (windows, STEPS):
        raise DataError(
            f"{path} is damaged: it has {signal.shape[0]} lines of {signal.shape[1]} numbers; expected {windows}, as "
            f"there are labels, of {STEPS}"
        )
    if not np.isfinite(signal).all():
        raise DataError(f"{path} is damaged: it has entries that are NaN or infinite")
    return signal


def _table(path: "Path | zipfile.Path", dtype: type) -> np.ndarray:
    """The numbers of a text file, `[lines, numbers per line]`."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; expected all files of the folder {FOLDER!r} as published")
    try:
        with path.open("r", encoding="ascii") as file:
            lines = [line for line in file if line.strip()]
        if not lines:
            raise ValueError("it is empty")
        return np.loadtxt(lines, dtype=dtype, ndmin=2)
    except DAMAGES as error:
        raise DataError(f"{path} is damaged and cannot be read ({error})") from error
