"""UCI HAR: six activities recognised from 2.56 s of a smartphone's accelerometer and gyroscope, 9 channels, 128 steps.

Source: D. Anguita, A. Ghio, L. Oneto, X. Parra, J. L. Reyes-Ortiz, "A Public Domain Dataset for Human Activity
Recognition Using Smartphones", ESANN 2013; publications that use the data must cite it. 7352 windows of 21 people
train, 2947 of 9 others test.

There is no checksum of the published zip that this project could vouch for, so data are checked by their content
wherever they come from: shapes, finite values, the number of windows, and the number of windows of every class.
"""

from pathlib import Path

import numpy as np
import torch

from lpgpu.data.dataset import Dataset
from lpgpu.data.download import cache_folder, fetch
from lpgpu.data.errors import DataError
from lpgpu.data.files import read_npz
from lpgpu.data.uci_har_files import CHANNELS, CLASSES, FOLDER, PARTS, STEPS, ZIP, Recordings, opened_zip, read_part

NPZ = "uci_har.npz"
ADDRESS = "https://archive.ics.uci.edu/ml/machine-learning-databases/00240/UCI%20HAR%20Dataset.zip"
NAMES = ("WALKING", "WALKING_UPSTAIRS", "WALKING_DOWNSTAIRS", "SITTING", "STANDING", "LAYING")
WINDOWS = {"train": (1226, 1073, 986, 1286, 1374, 1407), "test": (496, 471, 420, 491, 532, 537)}  # of each class


def load_uci_har(data_dir: Path | None = None) -> Dataset:
    """7352 training and 2947 test sequences, float32 `[n, 128, 9]`, with labels 0 … 5.

    Every channel is standardised: its mean over the training windows and their steps is subtracted, and the result
    divided by the standard deviation there. The test windows are treated with the same numbers.

    Args:
        data_dir: a folder with `uci_har.npz` (X_train, y_train, X_test, y_test), or the original folder
            `UCI HAR Dataset`, or `UCI HAR Dataset.zip`, looked for in this order; or that original folder itself. It is
            not searched any deeper, and never written to. None: the zip is taken from the cache
            ($XDG_CACHE_HOME/lpgpu or ~/.cache/lpgpu), and downloaded into it where it is not there yet.

    Raises:
        DataError: when nothing is found, the download fails, or what is found is damaged or not the whole data set.
    """
    where, parts = _read(data_dir)
    for name, part in parts.items():
        _check(where, name, part)
    train, test = (parts[name] for name in PARTS)
    mean = train.signals.mean(axis=(0, 1), dtype=np.float64)
    std = train.signals.std(axis=(0, 1), dtype=np.float64)
    if not (std > 0).all():
        raise DataError(f"{where} is damaged: a channel is constant over all training windows")
    standardised = [torch.as_tensor((part.signals - mean) / std, dtype=torch.float32) for part in (train, test)]
    return Dataset(
        train_inputs=standardised[0],
        train_labels=torch.as_tensor(train.labels),
        test_inputs=standardised[1],
        test_labels=torch.as_tensor(test.labels),
        classes=CLASSES,
    )


def _read(data_dir: Path | None) -> tuple[Path, dict[str, Recordings]]:
    """Where the data were found, and both parts of them."""
    if data_dir is None:
        return _read_zip(_downloaded())
    if (data_dir / NPZ).is_file():
        return data_dir / NPZ, _read_npz(data_dir / NPZ)
    if (data_dir / FOLDER).is_dir():
        return _read_folder(data_dir / FOLDER)
    if (data_dir / ZIP).is_file():
        return _read_zip(data_dir / ZIP)
    if (data_dir / "train").is_dir() and (data_dir / "test").is_dir():
        return _read_folder(data_dir)
    raise DataError(
        f"{data_dir} holds none of {NPZ}, {FOLDER!r} and {ZIP!r}, nor is it the folder {FOLDER!r} itself; "
        "name with --data-dir the folder that holds one of them (it is not searched any deeper)"
    )


def _read_folder(root: Path) -> tuple[Path, dict[str, Recordings]]:
    return root, {part: read_part(root, part) for part in PARTS}


def _read_zip(path: Path) -> tuple[Path, dict[str, Recordings]]:
    with opened_zip(path) as root:
        return path, {part: read_part(root, part) for part in PARTS}


def _read_npz(path: Path) -> dict[str, Recordings]:
    train_x, train_y, test_x, test_y = read_npz(path, ("X_train", "y_train", "X_test", "y_test"))
    return {"train": _recordings(path, train_x, train_y), "test": _recordings(path, test_x, test_y)}


def _recordings(path: Path, signals: np.ndarray, labels: np.ndarray) -> Recordings:
    expected = (len(labels) if labels.ndim == 1 else -1, STEPS, len(CHANNELS))
    if signals.shape != expected or signals.dtype.kind != "f" or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path} has signals {signals.dtype} {signals.shape} and labels {labels.dtype} {labels.shape}; "
            f"expected floats (n, {STEPS}, {len(CHANNELS)}) and integers (n,)"
        )
    return Recordings(signals.astype(np.float32), labels.astype(np.int64))


def _check(where: Path, name: str, part: Recordings) -> None:
    """Raise `DataError` unless this is the whole published part, by its number of windows of each class."""
    if not np.isfinite(part.signals).all():
        raise DataError(f"{where} is damaged: the {name} signals have entries that are NaN or infinite")
    if part.labels.min(initial=0) < 0 or part.labels.max(initial=0) >= CLASSES:
        raise DataError(f"{where} is damaged: the {name} labels go beyond 0 … {CLASSES - 1}")
    counts = np.bincount(part.labels, minlength=CLASSES)
    missing = [label for label, count in zip(NAMES, counts, strict=True) if not count]
    if missing:
        raise DataError(f"{where} is no data set to train on: no {name} window is {', '.join(missing)}")
    if tuple(counts) != WINDOWS[name]:
        raise DataError(
            f"{where} is not the whole data set: its {counts.sum()} {name} windows have {counts.tolist()} of the "
            f"classes; expected {sum(WINDOWS[name])}, {list(WINDOWS[name])}"
        )


def _downloaded() -> Path:
    """The zip in the cache, fetched if it is not there."""
    path = cache_folder() / ZIP
    if path.is_file():
        return path
    try:
        fetch(ADDRESS, path)
    except OSError as error:
        raise DataError(
            f"the UCI HAR data could not be downloaded from {ADDRESS} to {path} ({error}); fetch {ZIP!r} where there "
            f"is a network, put it there, or anywhere and name its folder with --data-dir"
        ) from error
    return path
