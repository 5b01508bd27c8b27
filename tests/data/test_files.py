"""Files that are not what their names say, in every data set: read where that is safe, else told by what they are."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from lpgpu.data import MNIST, DataError, load_indian_pines, load_mnist, load_uci_har
from lpgpu.data.files import read_mat, read_npy, read_npz, read_text
from lpgpu.data.hmdb51 import find_hmdb51
from lpgpu.data.mnist import read_idx

LOADERS = {
    "mnist.npz": lambda folder: load_mnist(MNIST, folder),
    "uci_har.npz": load_uci_har,
    "indian_pines_partial.npz": load_indian_pines,
    "hmdb51_clips.npz": find_hmdb51,
}
CONTENTS = {
    "an empty file": b"",
    "a web page or XML": b"\n<!DOCTYPE html><title>404</title>",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    "packed by gzip": gzip.compress(b"something"),
    "a pickle of Python": b"\x80\x04N.",
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_single_array_under_the_name_of_an_archive(tmp_path: Path, name: str):
    with open(tmp_path / name, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match=rf"{name} .*it looks like a single array of NumPy \(\.npy\), expected an arch"):
        LOADERS[name](tmp_path)


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("name", LOADERS)
def test_what_it_is_instead_is_said(tmp_path: Path, name: str, kind: str):
    (tmp_path / name).write_bytes(CONTENTS[kind])
    with pytest.raises(DataError, match=f"{name} is damaged, or .*it looks like {kind}.*fetch it again"):
        LOADERS[name](tmp_path)


def test_arrays_of_objects_are_not_unpickled(tmp_path: Path):
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="Object arrays cannot be loaded"):
        read_npz(tmp_path / "a.npz", ("x",))
    with pytest.raises(DataError, match="has no array y, z; expected x, y, z"):
        read_npz(tmp_path / "a.npz", ("x", "y", "z"))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(DataError, match="it is an archive, not one array"):
        read_npy(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["images", "images.gz"])
@pytest.mark.parametrize("packed", [True, False])
def test_gzip_is_known_by_its_content(tmp_path: Path, name: str, packed: bool):
    """Some programs unpack a file and keep its name; others keep it packed and drop the suffix."""
    content = np.array([2049, 3], dtype=">i4").tobytes() + bytes([1, 2, 3])
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    assert read_idx(tmp_path / name, 1).tolist() == [1, 2, 3]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_text_with_a_byte_order_mark_or_in_latin_1(tmp_path: Path, encoding: str):
    (tmp_path / "list.txt").write_bytes("Amélie_run_0.avi 1\n".encode(encoding))
    assert read_text(tmp_path / "list.txt") == "Amélie_run_0.avi 1\n"


def test_matlab_v7_3_is_called_by_its_name(tmp_path: Path):
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan  1 00:00:00 2024 HDF5 schema 1.00 ."
    (tmp_path / "a.mat").write_bytes(header.ljust(124) + b"\x00\x02IM" + b"\x00" * 384 + b"\x89HDF\r\n\x1a\n")
    with pytest.raises(DataError, match=r"a\.mat was saved by MATLAB as v7\.3, .*save it again with save\(…, '-v7'\)"):
        read_mat(tmp_path / "a.mat", "x")


def test_sparse_and_other_variables_of_matlab(tmp_path: Path):
    io, sparse = pytest.importorskip("scipy.io"), pytest.importorskip("scipy.sparse")
    dense = np.eye(3)
    io.savemat(tmp_path / "a.mat", {"x": sparse.csc_matrix(dense), "text": "words"})
    assert np.array_equal(read_mat(tmp_path / "a.mat", "x"), dense)
    with pytest.raises(DataError, match="has no numbers in text"):
        read_mat(tmp_path / "a.mat", "text")
    with pytest.raises(DataError, match=r"has no array truth; .* it holds x, text"):
        read_mat(tmp_path / "a.mat", "truth")


@pytest.mark.parametrize("label", [-1, 1.5, np.nan, 17])
def test_labels_that_are_no_classes(tmp_path: Path, label: float):
    labels = np.arange(1, 17).repeat(2).astype(float)
    labels[3] = label
    np.savez(tmp_path / "indian_pines_partial.npz", x_train=np.random.rand(32, 5), y_train=labels)
    with pytest.raises(DataError, match=r"it has labels that are no integers 1 … 16"):
        load_indian_pines(tmp_path)


def test_an_archive_of_clips_with_one_axis_missing(tmp_path: Path):
    arrays = {"video": np.zeros((1, 2, 8, 8, 3), np.uint8), "label_name": ["run"], "name": ["a"], "split": [1]}
    np.savez(tmp_path / "hmdb51_clips.npz", **arrays)
    with pytest.raises(DataError, match=r"of the shapes .*\(1,\)\]; expected \(n, frames"):
        find_hmdb51(tmp_path, ("run",))
