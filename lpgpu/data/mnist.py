"""MNIST and Fashion-MNIST: 60 000 training and 10 000 test images of 28×28 pixels, ten classes.

MNIST: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning applied to document recognition (1998).
Fashion-MNIST: H. Xiao, K. Rasul, R. Vollgraf, arXiv:1708.07747 (2017), Zalando SE.

They, KMNIST and others publish files of the same names. Whichever comes is therefore checked by the number of images of
every class, and by the sum of all their pixels.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lpgpu.data.dataset import Dataset
from lpgpu.data.download import cache_folder, fetch_checked
from lpgpu.data.errors import DataError
from lpgpu.data.files import DAMAGES, read_npz, unreadable

SIDE, CLASSES = 28, 10
PARTS = {"train": "train", "test": "t10k"}  # as we and as the files call them
GZIP = b"\x1f\x8b"
MAGIC = {3: 2051, 1: 2049}  # first four bytes of an idx file of unsigned bytes, by its dimensions

Part = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Source:
    """One of the two data sets: where it is published, and what tells it apart.

    Attributes:
        md5: of the files as published.
        counts: images of each class, by part.
        pixels: the sum of all pixels, 0 … 255 each, by part.
    """

    name: str
    npz: str
    address: str
    md5: dict[str, str]
    counts: dict[str, tuple[int, ...]]
    pixels: dict[str, int]


MNIST = Source(
    "MNIST",
    "mnist.npz",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    {
        "train": (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
        "test": (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
    },
    {"train": 1567298545, "test": 264923200},
)
FASHION_MNIST = Source(
    "Fashion-MNIST",
    "fashion_mnist.npz",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    {"train": (6000,) * 10, "test": (1000,) * 10},
    {"train": 3431114169, "test": 573469082},
)


def load_mnist(source: Source, data_dir: Path | None = None) -> Dataset:
    """60 000 training and 10 000 test images, float32 `[n, 1, 28, 28]`, with labels 0 … 9.

    Standardised: the mean of all training pixels is subtracted, and the result divided by their standard deviation.

    Args:
        source: `MNIST` or `FASHION_MNIST`.
        data_dir: a folder with `source.npz` (x_train, y_train, x_test, y_test) or else the four files as published,
            packed (.gz) or not. It is not searched any deeper, and never written to. None: the files are taken from the
            cache ($XDG_CACHE_HOME/lpgpu or ~/.cache/lpgpu), and downloaded into it, checked by their MD5 sums.

    Raises:
        DataError: when nothing is found, the download fails, or what is found is damaged or not the whole data set.
    """
    where, parts = _read(source, data_dir)
    for name, part in parts.items():
        _check(source, where, name, part)
    (train_x, train_y), (test_x, test_y) = parts["train"], parts["test"]
    mean, std = train_x.mean(dtype=np.float64), train_x.std(dtype=np.float64)
    return Dataset(
        train_inputs=_standardised(train_x, mean, std),
        train_labels=torch.as_tensor(train_y.astype(np.int64)),
        test_inputs=_standardised(test_x, mean, std),
        test_labels=torch.as_tensor(test_y.astype(np.int64)),
        classes=CLASSES,
    )


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The unsigned bytes of an idx file, packed by gzip or not, whatever its name. Raises `DataError` if damaged."""
    expected = f"an idx file of unsigned bytes in {dimensions} dimensions"
    try:
        content = path.read_bytes()
        if content.startswith(GZIP):
            content = gzip.decompress(content)
    except DAMAGES as error:
        raise unreadable(path, error, expected) from error
    head = np.frombuffer(content[: 4 * (1 + dimensions)].ljust(4 * (1 + dimensions), b"\0"), dtype=">i4")
    shape = tuple(int(size) for size in head[1:])
    if head[0] != MAGIC[dimensions] or len(content) != 4 * (1 + dimensions) + int(np.prod(shape)):
        raise unreadable(path, f"its {len(content)} bytes are no idx file", expected)
    return np.frombuffer(content, dtype=np.uint8, offset=4 * (1 + dimensions)).reshape(shape)


def _read(source: Source, data_dir: Path | None) -> tuple[Path, dict[str, Part]]:
    """Where the data were found, and both parts of them."""
    if data_dir is None:
        data_dir = _downloaded(source)
    elif (data_dir / source.npz).is_file():
        return data_dir / source.npz, _read_npz(data_dir / source.npz)
    parts = {}
    for name, published in PARTS.items():
        images, labels = (
            _published(data_dir, f"{published}-{kind}-ubyte", source) for kind in ("images-idx3", "labels-idx1")
        )
        parts[name] = (read_idx(images, 3), read_idx(labels, 1))
    return data_dir, parts


def _published(folder: Path, name: str, source: Source) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise DataError(
        f"{folder} holds neither {source.npz} nor {name}.gz; name with --data-dir the folder that holds {source.npz} "
        f"or the four files of {source.name} as published (it is not searched any deeper), or leave --data-dir out to "
        "download them"
    )


def _read_npz(path: Path) -> dict[str, Part]:
    train_x, train_y, test_x, test_y = read_npz(path, ("x_train", "y_train", "x_test", "y_test"))
    return {"train": (train_x, train_y), "test": (test_x, test_y)}


def _check(source: Source, where: Path, name: str, part: Part) -> None:
    """Raise `DataError` unless this is the whole published part, by its images of each class and their pixels."""
    images, labels = part
    if images.shape != (len(labels), SIDE, SIDE) or images.dtype != np.uint8 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{where} has {name} images {images.dtype} {images.shape} and labels {labels.dtype} {labels.shape}; "
            f"expected uint8 (n, {SIDE}, {SIDE}) and integers (n,)"
        )
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= CLASSES:
        raise DataError(
            f"{where} is damaged: its {name} labels are {labels.min()} … {labels.max()}; expected 0 … {CLASSES - 1}"
        )
    counts = np.bincount(labels, minlength=CLASSES)
    missing = [str(label) for label in np.flatnonzero(counts == 0)]
    if missing:
        raise DataError(f"{where} is no data set to train on: no {name} image is of class {', '.join(missing)}")
    if tuple(counts) != source.counts[name]:
        raise DataError(
            f"{where} is not {source.name}: its {counts.sum()} {name} images have {counts.tolist()} of the classes; "
            f"expected {sum(source.counts[name])}, {list(source.counts[name])}"
        )
    if (came := int(images.sum(dtype=np.int64))) != source.pixels[name]:
        raise DataError(
            f"{where} is not {source.name}, though it has as many {name} images of each class: the sum of their pixels "
            f"is {came}, expected {source.pixels[name]} (KMNIST, for one, has files of the same names)"
        )


def _standardised(images: np.ndarray, mean: float, std: float) -> torch.Tensor:
    return torch.as_tensor(images.astype(np.float32)).sub_(mean).div_(std).unsqueeze(1)


def _downloaded(source: Source) -> Path:
    """The folder of the four files in the cache, those fetched that are not there."""
    folder = cache_folder() / source.npz.removesuffix(".npz")
    for name, md5 in source.md5.items():
        fetch_checked(source.address + name, folder / name, md5)
    return folder
