"""Indian Pines: the land cover of 145×145 pixels in north-west Indiana, 16 classes, from spectra of 200 or 220 bands.

AVIRIS scene of 12 June 1992: M. F. Baumgardner, L. L. Biehl, D. A. Landgrebe, Purdue University, doi:10.4231/R7RX991C;
as .mat files, with the ground truth, by the Grupo de Inteligencia Computacional, UPV/EHU.
"""

from pathlib import Path

import numpy as np
import torch

from lpgpu.data.dataset import Dataset
from lpgpu.data.errors import DataError
from lpgpu.data.files import read_mat, read_npz

NPZ = "indian_pines_partial.npz"
CUBES = {"Indian_pines_corrected.mat": "indian_pines_corrected", "Indian_pines.mat": "indian_pines"}
TRUTH, TRUTH_KEY = "Indian_pines_gt.mat", "indian_pines_gt"
NAMES = (
    "Alfalfa", "Corn-notill", "Corn-mintill", "Corn", "Grass-pasture", "Grass-trees", "Grass-pasture-mowed",
    "Hay-windrowed", "Oats", "Soybean-notill", "Soybean-mintill", "Soybean-clean", "Wheat", "Woods",
    "Buildings-Grass-Trees-Drives", "Stone-Steel-Towers",
)  # fmt: skip
SPLIT_SEED = 0


def load_indian_pines(data_dir: Path | None, *, train_share: float = 0.5) -> Dataset:
    """Spectra of labelled pixels, float32 `[n, bands]`, with labels 0 … 15.

    Standardised: every band's mean over the training pixels is subtracted, and the result divided by its standard
    deviation there. The split is stratified, `train_share` of every class but at least one pixel on either side, and
    always the same.

    Args:
        data_dir: a folder with `indian_pines_partial.npz` (x_train, y_train: 695 spectra of 200 bands), or else
            `Indian_pines_corrected.mat` (200 bands) or `Indian_pines.mat` (220), and `Indian_pines_gt.mat`, as
            published. It is not searched any deeper, and never written to.

    Raises:
        DataError: when nothing is found, or what is found is damaged, or lacks a class.
    """
    if data_dir is None:
        raise DataError(
            "Indian Pines is not downloaded, since its owner publishes no checksum; fetch Indian_pines_corrected.mat "
            f"and {TRUTH} from the Grupo de Inteligencia Computacional, UPV/EHU, and name their folder with --data-dir"
        )
    where, spectra, labels = _read(data_dir)
    labels = _checked(where, spectra, labels)
    train, test = stratified_split(labels - 1, train_share)
    mean, std = spectra[train].mean(axis=0), spectra[train].std(axis=0)
    inputs = torch.as_tensor((spectra - mean) / np.where(std > 0, std, 1.0), dtype=torch.float32)
    classes = torch.as_tensor(labels - 1, dtype=torch.int64)
    return Dataset(
        train_inputs=inputs[train],
        train_labels=classes[train],
        test_inputs=inputs[test],
        test_labels=classes[test],
        classes=len(NAMES),
    )


def stratified_split(labels: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of `share` of every class, at least one and not all of it, and those of the rest; always the same."""
    random = np.random.default_rng(SPLIT_SEED)
    train, test = [], []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        count = min(max(1, round(share * len(members))), len(members) - 1)
        train.append(members[:count])
        test.append(members[count:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


def _read(data_dir: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """Where the data were found, spectra `[n, bands]` in fp64, and labels 1 … 16 `[n]`."""
    if (data_dir / NPZ).is_file():
        return data_dir / NPZ, *_read_npz(data_dir / NPZ)
    cube = next((data_dir / name for name in CUBES if (data_dir / name).is_file()), None)
    if cube is None or not (data_dir / TRUTH).is_file():
        raise DataError(
            f"{data_dir} holds neither {NPZ}, nor one of {', '.join(CUBES)} and {TRUTH}; name with --data-dir the "
            "folder that holds them (it is not searched any deeper)"
        )
    values, truth = read_mat(cube, CUBES[cube.name]), read_mat(data_dir / TRUTH, TRUTH_KEY)
    if values.ndim != 3 or truth.shape != values.shape[:2]:
        raise DataError(f"{cube} is {values.shape}, and its ground truth {truth.shape}; expected pixels × bands")
    labelled = truth != 0
    return cube, values[labelled].astype(np.float64), truth[labelled]


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    spectra, labels = read_npz(path, ("x_train", "y_train"))
    if spectra.dtype.kind not in "iuf" or labels.dtype.kind not in "iuf":
        raise DataError(f"{path} has spectra {spectra.dtype} and labels {labels.dtype}; expected numbers")
    return spectra.astype(np.float64), labels


def _checked(where: Path, spectra: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The labels as int64, where they and the spectra are right; else `DataError`."""
    if spectra.ndim != 2 or labels.shape != spectra.shape[:1]:
        raise DataError(f"{where} has spectra {spectra.shape} and labels {labels.shape}; expected (n, bands) and (n,)")
    if not np.isfinite(spectra).all():
        raise DataError(f"{where} is damaged: it has spectra with entries that are NaN or infinite")
    if not len(labels) or not np.array_equal(labels, np.clip(np.round(labels), 1, len(NAMES))):
        raise DataError(f"{where} is damaged: it has labels that are no integers 1 … {len(NAMES)}")
    labels = labels.astype(np.int64)
    counts = np.bincount(labels, minlength=len(NAMES) + 1)[1:]
    few = [name for name, count in zip(NAMES, counts, strict=True) if count < 2]
    if few:
        raise DataError(f"{where} is no data set to train and test on: it has no two pixels of {', '.join(few)}")
    return labels
