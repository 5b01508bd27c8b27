"""MNIST and Fashion-MNIST: from .npz and original files alike, checked, and refused with a reason."""

import gzip
import hashlib
import io
import urllib.error
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lpgpu.data import FASHION_MNIST, MNIST, DataError, Dataset, load_mnist
from lpgpu.data.mnist import Source, read_idx
from tests.data.har_files import SHARED, need

FEW = {"train": (2,) * 10, "test": (1,) * 10}
FILES = {"x_train": "train-images-idx3", "y_train": "train-labels-idx1"} | {
    "x_test": "t10k-images-idx3",
    "y_test": "t10k-labels-idx1",
}


def small(arrays: dict[str, np.ndarray], like: Source = MNIST) -> Source:
    """A data set of these few images."""
    return replace(like, counts=FEW, pixels={part: int(arrays[f"x_{part}"].sum(dtype=int)) for part in FEW})


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    random, made = np.random.default_rng(), {}
    for part, counts in FEW.items():
        made[f"y_{part}"] = random.permutation(np.repeat(np.arange(10), counts)).astype(np.uint8)
        made[f"x_{part}"] = random.integers(0, 256, (sum(counts), 28, 28), dtype=np.uint8)
    return made


def idx(array: np.ndarray) -> bytes:
    head = [2051 if array.ndim == 3 else 2049, *array.shape]
    return np.array(head, dtype=">i4").tobytes() + array.tobytes()


def write_originals(folder: Path, arrays, *, packed: bool = True) -> Path:
    folder.mkdir(exist_ok=True)
    for name, file in FILES.items():
        content = idx(arrays[name])
        (folder / f"{file}-ubyte{'.gz' if packed else ''}").write_bytes(gzip.compress(content) if packed else content)
    return folder


def assert_is(data: Dataset, arrays) -> None:
    train = torch.as_tensor(arrays["x_train"], dtype=torch.float64)
    for inputs, part in ((data.train_inputs, "train"), (data.test_inputs, "test")):
        expected = (torch.as_tensor(arrays[f"x_{part}"], dtype=torch.float64) - train.mean()) / train.std(correction=0)
        torch.testing.assert_close(inputs, expected.float()[:, None], atol=1e-5, rtol=0)
    assert data.train_labels.tolist() == arrays["y_train"].tolist()
    assert data.test_labels.tolist() == arrays["y_test"].tolist() and data.classes == 10


@pytest.mark.parametrize("packed", [True, False])
def test_original_files(tmp_path: Path, arrays, packed: bool):
    assert_is(load_mnist(small(arrays), write_originals(tmp_path, arrays, packed=packed)), arrays)


def test_npz_comes_first_and_nothing_is_written(tmp_path: Path, arrays):
    write_originals(tmp_path, {**arrays, "y_train": arrays["y_train"] * 0})  # would be refused
    np.savez(tmp_path / "mnist.npz", allow_pickle=False, **arrays)
    before = sorted(tmp_path.rglob("*"))
    assert_is(load_mnist(small(arrays), tmp_path), arrays)
    assert sorted(tmp_path.rglob("*")) == before


def test_not_searched_any_deeper(tmp_path: Path, arrays):
    write_originals(tmp_path / "raw", arrays)
    with pytest.raises(
        DataError, match=r"holds neither mnist\.npz nor train-images-idx3-ubyte\.gz; name with --data-dir"
    ):
        load_mnist(small(arrays), tmp_path)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("y_train", lambda y: np.where(y == 3, 4, y).astype(np.uint8), "no train image is of class 3"),
        ("y_test", lambda y: y[:-1], r"test images uint8 \(10, 28, 28\) and labels uint8 \(9,\)"),
        ("x_train", lambda x: x[:, :27], r"expected uint8 \(n, 28, 28\)"),
        (
            "y_train",
            lambda y: np.where(y == 3, -1, y.astype(int)),
            r"its train labels are -1 … 9; expected 0 … 9",
        ),
        ("y_test", lambda y: np.where(y == 3, 10, y), r"is damaged: its test labels are 0 … 10; expected 0 … 9"),
    ],
)
def test_wrong_content(tmp_path: Path, arrays, name: str, damage, message: str):
    np.savez(tmp_path / "mnist.npz", allow_pickle=False, **{**arrays, name: damage(arrays[name])})
    with pytest.raises(DataError, match=message):
        load_mnist(small(arrays), tmp_path)


def test_the_other_data_set_has_files_of_the_same_names(tmp_path: Path, arrays):
    write_originals(tmp_path, arrays)
    with pytest.raises(DataError, match="is not Fashion-MNIST: its 20 train images"):
        load_mnist(FASHION_MNIST, tmp_path)


@pytest.mark.parametrize("part", ["train", "test"])
def test_other_pictures_in_classes_of_the_same_size(tmp_path: Path, arrays, part: str):
    """KMNIST has Fashion-MNIST's file names, and as many images of each class."""
    source = small(arrays, FASHION_MNIST)
    assert_is(load_mnist(source, write_originals(tmp_path, arrays)), arrays)
    other = {**arrays, f"x_{part}": 255 - arrays[f"x_{part}"]}
    with pytest.raises(DataError, match=f"is not Fashion-MNIST, though .* {part} images .*KMNIST"):
        load_mnist(source, write_originals(tmp_path, other))


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.98])
def test_cut_off_file(tmp_path: Path, arrays, kept: float):
    write_originals(tmp_path, arrays)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is damaged"):
        load_mnist(small(arrays), tmp_path)


def test_something_else_under_the_name(tmp_path: Path, arrays):
    write_originals(tmp_path, arrays, packed=False)
    path = tmp_path / "t10k-labels-idx1-ubyte"
    for content in (b"", b"hello", idx(arrays["x_test"]), idx(arrays["y_test"])[:-1]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte is damaged, .*its .* bytes are no idx file"):
            load_mnist(small(arrays), tmp_path)


@pytest.fixture
def owner(tmp_path: Path, arrays, monkeypatch: pytest.MonkeyPatch):
    """A source whose files are served, and the list of what was asked for."""
    folder, asked = write_originals(tmp_path / "served", arrays), []
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}

    class Answer(io.BytesIO):
        def __init__(self, content: bytes):
            super().__init__(content)
            self.headers = {"Content-Length": str(len(content))}

    def answer(address: str, timeout: float):
        asked.append(address)
        return Answer((folder / address.rsplit("/", 1)[1]).read_bytes())

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", answer)
    return replace(small(arrays), md5=sums), asked, folder


def test_download_is_checked_and_kept(owner, arrays):
    source, asked, _ = owner
    for _ in range(2):
        assert_is(load_mnist(source), arrays)
    assert sorted(asked) == sorted(MNIST.address + name for name in source.md5)


def test_wrong_checksum_is_refused_and_not_kept(owner, tmp_path: Path):
    source, _, folder = owner
    name = "t10k-images-idx3-ubyte.gz"
    (folder / name).write_bytes(b"something else")
    with pytest.raises(DataError, match=f"{name} has the MD5 sum .*; expected {source.md5[name]}"):
        load_mnist(source)
    assert not (tmp_path / "cache" / "lpgpu" / "mnist" / name).exists()


def test_a_cached_file_that_was_damaged_later(owner, tmp_path: Path):
    source: Source = owner[0]
    load_mnist(source)
    path = tmp_path / "cache" / "lpgpu" / "mnist" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"is damaged: its MD5 sum is .* delete it to have it fetched again"):
        load_mnist(source)


def test_no_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_network(address, timeout):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(
        DataError, match=r"could not be downloaded .* where there is a network, put it there, or .* --data"
    ):
        load_mnist(MNIST)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_real_files_have_the_published_sums_and_are_those_of_the_npz():
    folder = need(SHARED / "raw" / "fashion_mnist")
    with np.load(need(SHARED / "fashion_mnist.npz"), allow_pickle=False) as arrays:
        for key, name, dimensions in (("x_test", "t10k-images-idx3", 3), ("y_test", "t10k-labels-idx1", 1)):
            path = folder / f"{name}-ubyte.gz"
            assert hashlib.md5(path.read_bytes()).hexdigest() == FASHION_MNIST.md5[path.name]
            assert np.array_equal(read_idx(path, dimensions), arrays[key])


def test_the_real_data():
    need(SHARED / "mnist.npz")
    data = load_mnist(MNIST, SHARED)
    assert data.train_inputs.shape == (60000, 1, 28, 28) and data.test_inputs.shape == (10000, 1, 28, 28)
    assert abs(data.train_inputs.mean()) < 1e-3
    with np.load(SHARED / "fashion_mnist.npz", allow_pickle=False) as arrays:
        counts = {part: tuple(np.bincount(arrays[f"y_{part}"])) for part in ("train", "test")}
        sums = {part: int(arrays[f"x_{part}"].sum(dtype=int)) for part in ("train", "test")}
    assert (counts, sums) == (FASHION_MNIST.counts, FASHION_MNIST.pixels)


def test_a_source_is_a_key_by_which_recipes_keep_its_images() -> None:
    assert {MNIST: "digits", FASHION_MNIST: "clothes"}[FASHION_MNIST] == "clothes"
