"""UCI HAR: found where it may lie, the same from every kind of file, and refused with a reason when it is not whole."""

import io
import urllib.error
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from lpgpu.data import DataError, Dataset, load_uci_har, uci_har
from lpgpu.data.uci_har_files import FOLDER, ZIP, read_part
from tests.data.har_files import SHARED, few_windows, need, write_npz, write_originals


@pytest.fixture
def arrays(monkeypatch: pytest.MonkeyPatch):
    return few_windows(monkeypatch)


def zipped(root: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, Path(FOLDER) / file.relative_to(root))
    return path


def assert_is(data: Dataset, arrays: dict[str, np.ndarray]) -> None:
    """`data` are the arrays, standardised by the formula of the docstring in fp64."""
    train = torch.as_tensor(arrays["X_train"], dtype=torch.float64)
    mean, std = train.mean((0, 1)), train.std((0, 1), correction=0)
    for inputs, part in ((data.train_inputs, "train"), (data.test_inputs, "test")):
        expected = (torch.as_tensor(arrays[f"X_{part}"], dtype=torch.float64) - mean) / std
        torch.testing.assert_close(inputs, expected.float(), atol=2e-6, rtol=0)
    assert data.train_labels.tolist() == arrays["y_train"].tolist()
    assert data.test_labels.tolist() == arrays["y_test"].tolist()
    assert data.train_labels.dtype == torch.int64 and data.classes == 6


def test_npz(tmp_path: Path, arrays):
    assert_is(load_uci_har(write_npz(tmp_path, arrays)), arrays)


def test_original_folder_beside_or_as_data_dir(tmp_path: Path, arrays):
    root = write_originals(tmp_path, arrays)
    assert_is(load_uci_har(tmp_path), arrays)
    assert_is(load_uci_har(root), arrays)


def test_zip_and_the_zip_inside_a_zip(tmp_path: Path, arrays):
    root = write_originals(tmp_path / "made", arrays)
    (tmp_path / "plain").mkdir()
    inner = zipped(root, tmp_path / "plain" / ZIP)
    assert_is(load_uci_har(inner.parent), arrays)
    (tmp_path / "nested").mkdir()
    with zipfile.ZipFile(tmp_path / "nested" / ZIP, "w") as archive:
        archive.write(inner, ZIP)
    assert_is(load_uci_har(tmp_path / "nested"), arrays)


def test_npz_comes_first_and_nothing_is_written(tmp_path: Path, arrays):
    write_originals(tmp_path, {name: array[:1] for name, array in arrays.items()})  # would be refused
    write_npz(tmp_path, arrays)
    before = sorted(tmp_path.rglob("*"))
    assert_is(load_uci_har(tmp_path), arrays)
    assert sorted(tmp_path.rglob("*")) == before


def test_search_is_not_recursive(tmp_path: Path, arrays):
    (tmp_path / "below").mkdir()
    write_npz(tmp_path / "below", arrays)
    with pytest.raises(DataError, match=r"holds none of uci_har\.npz, .* name with --data-dir the folder"):
        load_uci_har(tmp_path)


@pytest.mark.parametrize(
    ("part", "damage", "message"),
    [
        ("y_train", lambda y: np.where(y == 3, 4, y), "no train window is SITTING"),
        ("y_test", lambda y: np.where(y == 3, 6, y), "the test labels go beyond 0 … 5"),
        ("y_test", lambda y: y.astype(np.float32), "expected floats"),
        ("X_train", lambda x: np.where(x == x.max(), np.nan, x), "train signals have entries that are NaN"),
        ("X_train", lambda x: x[:, :127], r"signals float32 \(8, 127, 9\)"),
        ("X_train", lambda x: x * np.array([1] * 8 + [0]), "a channel is constant"),
    ],
)
def test_wrong_content(tmp_path: Path, arrays, part: str, damage, message: str):
    write_npz(tmp_path, {**arrays, part: damage(arrays[part])})
    with pytest.raises(DataError, match=message):
        load_uci_har(tmp_path)


def test_a_part_of_the_data_is_not_the_whole(tmp_path: Path, arrays):
    keep = np.delete(np.arange(8), np.flatnonzero(arrays["y_train"] == 0)[0])
    write_npz(tmp_path, {**arrays, "X_train": arrays["X_train"][keep], "y_train": arrays["y_train"][keep]})
    with pytest.raises(DataError, match=r"its 7 train windows have \[1, 1, 1, 1, 1, 2\] .* expected 8"):
        load_uci_har(tmp_path)


def test_npz_without_an_array(tmp_path: Path, arrays):
    del arrays["y_test"]
    with pytest.raises(DataError, match="expected X_train, y_train, X_test, y_test"):
        load_uci_har(write_npz(tmp_path, arrays))


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("name", ["uci_har.npz", ZIP])
def test_cut_off_file(tmp_path: Path, arrays, name: str, kept: float):
    if name == ZIP:
        zipped(write_originals(tmp_path / "made", arrays), tmp_path / ZIP)
    else:
        write_npz(tmp_path, arrays)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match="is damaged"):
        load_uci_har(tmp_path)


def test_flipped_bits_in_the_zip_are_noticed(tmp_path: Path, arrays):
    path = zipped(write_originals(tmp_path / "made", arrays), tmp_path / ZIP)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        load_uci_har(tmp_path)


def test_zip_of_something_else(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / ZIP, "w") as archive:
        archive.writestr("holiday.txt", "sun")
    with pytest.raises(DataError, match="holds no folder 'UCI HAR Dataset'"):
        load_uci_har(tmp_path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text[: len(text) // 2], "body_gyro_y_train.txt is damaged"),
        (lambda text: "", "body_gyro_y_train.txt is damaged and cannot be read .it is empty"),
        (lambda text: text[: text.rindex("\n", 0, -1) + 1], "7 lines of 128 numbers; expected 8, as there are labels"),
        (lambda text: text.replace("e", "x", 1), "body_gyro_y_train.txt is damaged"),
        (lambda text: text.replace(text[:16], f"{'nan':>16}", 1), "has entries that are NaN or infinite"),
        (None, "body_gyro_y_train.txt does not exist"),
    ],
)
def test_damaged_text(tmp_path: Path, arrays, edit, message: str):
    path = write_originals(tmp_path, arrays) / "train" / "Inertial Signals" / "body_gyro_y_train.txt"
    text = path.read_text()
    path.unlink() if edit is None else path.write_text(edit(text))
    with pytest.raises(DataError, match=message):
        load_uci_har(tmp_path)


def test_labels_out_of_range(tmp_path: Path, arrays):
    root = write_originals(tmp_path, arrays)
    (root / "test" / "y_test.txt").write_text("0\n" * 6)
    with pytest.raises(DataError, match=r"y_test\.txt is damaged: expected one label 1 … 6 on each line"):
        load_uci_har(tmp_path)


def test_no_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_network(address, timeout):
        assert timeout < 120
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(DataError, match=r"could not be downloaded .* put it there, or .* with --data-dir") as raised:
        load_uci_har()
    assert str(tmp_path / "cache" / "lpgpu" / ZIP) in str(raised.value)
    assert list((tmp_path / "cache" / "lpgpu").iterdir()) == []


class Answer(io.BytesIO):
    """What urlopen would return: `content`, announced as `length` bytes."""

    def __init__(self, content: bytes, length: int):
        super().__init__(content)
        self.headers = {"Content-Length": str(length)}


def test_download_is_kept_in_the_cache(tmp_path: Path, arrays, monkeypatch: pytest.MonkeyPatch):
    content = zipped(write_originals(tmp_path / "made", arrays), tmp_path / "made.zip").read_bytes()
    asked = []

    def answer(address, timeout):
        asked.append(address)
        return Answer(content, len(content))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", answer)
    assert_is(load_uci_har(), arrays)
    assert_is(load_uci_har(), arrays)
    assert asked == [uci_har.ADDRESS]


def test_download_that_breaks_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", lambda address, timeout: Answer(b"half", 8))
    with pytest.raises(DataError, match="the connection ended after 4 of 8 bytes"):
        load_uci_har()
    assert list((tmp_path / "lpgpu").iterdir()) == []


def test_the_real_data():
    need(SHARED / "uci_har.npz")
    data = load_uci_har(SHARED)
    assert data.train_inputs.shape == (7352, 128, 9) and data.test_inputs.shape == (2947, 128, 9)
    assert data.train_inputs.dtype == torch.float32 and data.train_labels.dtype == torch.int64
    assert data.train_inputs.mean((0, 1)).abs().max() < 1e-5
    torch.testing.assert_close(data.train_inputs.std((0, 1)), torch.ones(9), atol=1e-4, rtol=0)
    assert data.test_labels.bincount().tolist() == [496, 471, 420, 491, 532, 537]


def test_the_real_files_are_those_of_the_npz():
    root = need(SHARED / "raw" / FOLDER)
    with np.load(need(SHARED / "uci_har.npz"), allow_pickle=False) as arrays:
        for name in ("train", "test"):
            part = read_part(root, name)
            assert part.signals.shape == (64, 128, 9) and part.signals.dtype == np.float32
            assert np.array_equal(part.signals, arrays[f"X_{name}"][:64])
            assert np.array_equal(part.labels, arrays[f"y_{name}"][:64])


def test_a_fixture_of_64_windows_is_refused_for_training():
    root = need(SHARED / "raw" / FOLDER)
    for data_dir in (root, root.parent):
        with pytest.raises(DataError, match="no train window is WALKING, WALKING_UPSTAIRS, WALKING_DOWNSTAIRS"):
            load_uci_har(data_dir)
