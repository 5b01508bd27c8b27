"""Indian Pines: from the .npz and from .mat files, split by class, refused with a reason when it is not right."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lpgpu.data import DataError, load_indian_pines
from lpgpu.data.indian_pines import stratified_split
from tests.data.har_files import SHARED, need

BANDS = 7


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray]:
    """A cube [12, 10, bands] and its ground truth with all 16 classes and background."""
    random = np.random.default_rng()
    truth = random.permutation(np.concatenate([np.arange(17).repeat(6), np.zeros(18)])).reshape(12, 10)
    return random.integers(1000, 9000, (12, 10, BANDS)).astype(np.uint16), truth.astype(np.uint8)


def write_mat(folder: Path, cube: np.ndarray, truth: np.ndarray, *, corrected: bool = True) -> Path:
    savemat = pytest.importorskip("scipy.io").savemat
    name = "Indian_pines_corrected" if corrected else "Indian_pines"
    savemat(folder / f"{name}.mat", {name.lower(): cube}, do_compression=True)
    savemat(folder / "Indian_pines_gt.mat", {"indian_pines_gt": truth})
    return folder


@pytest.mark.parametrize("corrected", [True, False])
def test_spectra_of_labelled_pixels(tmp_path: Path, scene, corrected: bool):
    cube, truth = scene
    data = load_indian_pines(write_mat(tmp_path, cube, truth, corrected=corrected), train_share=0.5)
    assert data.train_inputs.shape == (48, BANDS) and data.test_inputs.shape == (48, BANDS) and data.classes == 16
    assert data.train_labels.bincount().tolist() == [3] * 16 == data.test_labels.bincount().tolist()
    torch.testing.assert_close(data.train_inputs.mean(0), torch.zeros(BANDS), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.train_inputs.std(0, correction=0), torch.ones(BANDS), atol=1e-4, rtol=0)
    spectra, labels = cube[truth > 0].astype(np.float64), truth[truth > 0] - 1
    train, test = stratified_split(labels, 0.5)
    expected = (spectra - spectra[train].mean(0)) / spectra[train].std(0)
    torch.testing.assert_close(data.test_inputs, torch.as_tensor(expected[test]).float(), atol=1e-5, rtol=0)
    assert data.test_labels.tolist() == labels[test].tolist()


def test_npz_comes_first(tmp_path: Path, scene):
    write_mat(tmp_path, *scene)
    labels = np.repeat(np.arange(1, 17), 2)
    np.savez(tmp_path / "indian_pines_partial.npz", x_train=np.random.rand(32, 5), y_train=labels)
    assert load_indian_pines(tmp_path).train_inputs.shape == (16, 5)


@given(counts=st.lists(st.integers(2, 30), min_size=1, max_size=6), share=st.floats(0.01, 0.99))
def test_split_has_both_sides_of_every_class(counts, share: float):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    train, test = stratified_split(labels, share)
    assert sorted([*train, *test]) == list(range(len(labels)))
    for label, count in enumerate(counts):
        there = np.count_nonzero(labels[train] == label)
        assert 1 <= there < count and abs(there - share * count) <= 1
    assert all(np.array_equal(a, b) for a, b in zip((train, test), stratified_split(labels, share), strict=True))


def test_a_class_is_missing(tmp_path: Path, scene):
    cube, truth = scene
    truth[truth == 9] = 0
    with pytest.raises(DataError, match="no two pixels of Oats"):
        load_indian_pines(write_mat(tmp_path, cube, truth))


def test_truth_of_another_scene(tmp_path: Path, scene):
    cube, truth = scene
    with pytest.raises(DataError, match=r"\(12, 10, 7\), and its ground truth \(12, 9\)"):
        load_indian_pines(write_mat(tmp_path, cube, truth[:, :9]))


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("name", ["Indian_pines_corrected.mat", "Indian_pines_gt.mat"])
def test_cut_off_file(tmp_path: Path, scene, name: str, kept: float):
    write_mat(tmp_path, *scene)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=f"{name} .*(is damaged|has no array)"):
        load_indian_pines(tmp_path)


def test_nothing_there(tmp_path: Path, scene):
    with pytest.raises(DataError, match=r"holds neither indian_pines_partial.npz, nor one of"):
        load_indian_pines(tmp_path)
    write_mat(tmp_path, *scene)
    (tmp_path / "Indian_pines_gt.mat").unlink()
    with pytest.raises(DataError, match=r"and Indian_pines_gt.mat; name with --data-dir the folder"):
        load_indian_pines(tmp_path)
    with pytest.raises(DataError, match=r"not downloaded, .* name their folder with --data-dir"):
        load_indian_pines(None)


def test_the_real_ground_truth(tmp_path: Path):
    truth = need(SHARED / "raw" / "indian_pines" / "Indian_pines_gt.mat")
    savemat = pytest.importorskip("scipy.io").savemat
    (tmp_path / truth.name).write_bytes(truth.read_bytes())
    cube = np.random.default_rng().integers(1000, 9000, (145, 145, 3)).astype(np.uint16)
    savemat(tmp_path / "Indian_pines_corrected.mat", {"indian_pines_corrected": cube})
    data = load_indian_pines(tmp_path, train_share=0.1)
    assert len(data.train_labels) + len(data.test_labels) == 10249
    counts = data.train_labels.bincount() + data.test_labels.bincount()
    assert counts.tolist() == [46, 1428, 830, 237, 483, 730, 28, 478, 20, 972, 2455, 593, 205, 1265, 386, 93]


def test_the_real_spectra():
    need(SHARED / "indian_pines_partial.npz")
    data = load_indian_pines(SHARED)
    assert data.train_inputs.shape[1] == 200 and len(data.train_labels) + len(data.test_labels) == 695
