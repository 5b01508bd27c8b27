"""Small UCI HAR data sets for the tests, as .npz or as original files, and where the real one may lie."""

from pathlib import Path

import numpy as np
import pytest

from lpgpu.data import uci_har
from lpgpu.data.uci_har_files import CHANNELS, FOLDER

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
FEW = {"train": (2, 1, 1, 1, 1, 2), "test": (1, 1, 1, 1, 1, 1)}

Arrays = dict[str, np.ndarray]


def need(path: Path) -> Path:
    """`path`, or a skipped test where it is absent."""
    if not path.exists():
        pytest.skip(f"needs {path.name} in ../shared/data beside the checkout, which is not there")
    return path


def few_windows(monkeypatch: pytest.MonkeyPatch, counts: dict[str, tuple[int, ...]] = FEW) -> Arrays:
    """A random data set of so few windows of each class, which the loader then takes for the whole one."""
    monkeypatch.setattr(uci_har, "WINDOWS", counts)
    random = np.random.default_rng()
    arrays = {}
    for part, per_class in counts.items():
        labels = random.permutation(np.repeat(np.arange(6), per_class)).astype(np.uint8)
        level = labels[:, None, None] + np.arange(9)  # another mean for every class and channel
        arrays[f"X_{part}"] = (level + random.standard_normal((len(labels), 128, 9))).astype(np.float32)
        arrays[f"y_{part}"] = labels
    return arrays


def write_npz(folder: Path, arrays: Arrays) -> Path:
    """The arrays as `uci_har.npz`."""
    np.savez(folder / "uci_har.npz", allow_pickle=False, **arrays)
    return folder


def write_originals(folder: Path, arrays: Arrays) -> Path:
    """The arrays as the published text files, below `folder` / "UCI HAR Dataset", which is returned."""
    root = folder / FOLDER
    for part in ("train", "test"):
        signals = root / part / "Inertial Signals"
        signals.mkdir(parents=True)
        (root / part / f"y_{part}.txt").write_text("".join(f"{label + 1}\n" for label in arrays[f"y_{part}"]))
        for channel, name in enumerate(CHANNELS):
            lines = ("".join(f"{value:16.8e}" for value in window[:, channel]) for window in arrays[f"X_{part}"])
            (signals / f"{name}_{part}.txt").write_text("\n".join(lines) + "\n")
    return root
