"""Text by characters."""

from pathlib import Path

import pytest
import torch

from lpgpu.data import DataError, load_text


def test_labels_are_the_next_characters_and_tests_come_last(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("abcde" * 100 + "xyz", encoding="utf-8")
    data = load_text(path, context=7)
    assert data.train_inputs.shape == data.train_labels.shape == (64, 7)  # of 452 characters
    assert torch.equal(data.train_inputs.flatten()[1:], data.train_labels.flatten()[:-1])
    assert data.classes == 6  # a … e, and one for what is new in the test text
    assert data.test_labels.flatten().max() < 6
    codes = torch.cat([data.train_inputs.flatten()[:5], data.test_inputs.flatten()[:3]])
    assert codes.tolist() == [1, 2, 3, 4, 5, 3, 4, 5]


def test_unknown_characters_share_a_class(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("ab" * 180 + "äö" * 20, encoding="utf-8")
    assert load_text(path, context=2).test_inputs.unique().tolist() == [0]


def test_pythons_own_text() -> None:
    data = load_text(context=64, characters=20000)
    assert data.train_inputs.shape == (281, 64) and 20 < data.classes < 200


@pytest.mark.parametrize(
    ("content", "match"),
    [(None, "cannot be read"), (b"\xff\xfe\x00", "cannot be read"), (b"short", "5 characters; expected at least 1300")],
)
def test_what_is_no_text(tmp_path: Path, content: bytes | None, match: str) -> None:
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=match):
        load_text(path, context=64)
