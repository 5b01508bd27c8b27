"""Features that several processes compute at once: each clip once, whatever happens to a process."""

import errno
import fcntl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lpgpu.data import DataError
from lpgpu.data.frame_features import Encoded, FrameEncoder, encode_clips
from lpgpu.data.hmdb51 import Clip
from lpgpu.data.shared_table import SharedTable

TRAIN, TEST, FRAMES, FEATURES = 16, 8, 5, 6
LIMIT = 60  # seconds, after which processes are killed


class Backbone(nn.Module):
    """A few features of a frame, slowly; notes the clips, which are of one colour each."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        colour = (x[0, 0, 0, 0] * 0.229 + 0.485) * 255
        self.seen.append(round(float(colour)))
        return x.mean((1, 2, 3))[:, None] * torch.arange(1.0, FEATURES + 1)


def clip(colour: int) -> Clip:
    """2 … 6 frames of one colour."""
    frames = np.full((2 + colour % 5, 8, 8, 3), colour, np.uint8)
    return Clip(f"{colour}.avi", colour % 2, colour >= TRAIN, lambda most: frames[:most], f"{colour}.avi")


def encode(cache: Path, backbone: Backbone, rank: int = 0, ranks: int = 1) -> Encoded:
    """All clips."""
    clips = [clip(colour) for colour in range(TRAIN + TEST)]
    encoder = FrameEncoder(backbone, "slow", size=8)
    return encode_clips(clips, encoder, cache, frames=FRAMES, features=FEATURES, rank=rank, ranks=ranks)


@contextmanager
def processes(script: str, *arguments: tuple[object, ...]) -> Iterator[list[subprocess.Popen]]:
    """One process of `script` for each of `arguments`, all of them ready, and killed at the end."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, *map(str, each)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for each in arguments
    ]
    try:
        for process in running:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


ENCODES = """
import sys
from pathlib import Path
import torch
from tests.data.test_shared_features import Backbone, encode

torch.set_num_threads(1)
folder, rank = Path(sys.argv[1]), int(sys.argv[2])
backbone = Backbone(seconds=0.05)
print("ready", flush=True)
input()
data = encode(folder / "cache", backbone, rank, 2).dataset
torch.save([data.train_inputs.clone(), data.test_inputs.clone()], folder / f"{rank}.pt")
print(*backbone.seen)
"""


def test_two_processes_share_the_clips(tmp_path: Path):
    with processes(ENCODES, (tmp_path, 0), (tmp_path, 1)) as both:
        for process in both:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        seen = [list(map(int, process.communicate(timeout=LIMIT)[0].split())) for process in both]
    assert sorted(seen[0] + seen[1]) == list(range(TRAIN + TEST))  # each once
    assert [clips[0] for clips in seen] == [0, TRAIN // 2] and min(map(len, seen)) >= 4
    expected = encode(tmp_path / "other", Backbone()).dataset
    for rank in (0, 1):
        train, test = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(train, expected.train_inputs) and torch.equal(test, expected.test_inputs)


CLAIMS = """
import sys
from pathlib import Path
from lpgpu.data.shared_table import SharedTable

with SharedTable(Path(sys.argv[1]), (3, 2)) as table:
    assert table.claim(1, wait=False)
    print("ready", flush=True)
    input()
"""


def test_the_claim_of_a_killed_process_ends(tmp_path: Path):
    with SharedTable(tmp_path / "table.npy", (3, 2)) as table:
        with processes(CLAIMS, (table.path,)) as (other,):
            assert not table.claim(1, wait=False)
            assert table.claim(2, wait=False)
            other.kill()
            assert table.claim(1, wait=True)
        table.release(1)


def test_a_table_made_twice_loses_nothing(tmp_path: Path):
    path = tmp_path / "table.npy"
    with SharedTable(path, (3, 2, 4)) as table:
        table.write(1, np.ones((1, 4), np.float32))
        mapped = table.mapped()
        with SharedTable(path, (3, 2, 4)) as again:
            assert [again.is_done(place) for place in range(3)] == [False, True, False]
            again.write(2, np.full((2, 4), 3, np.float32))
        expected = np.zeros((3, 2, 4))
        expected[1, 0], expected[2] = 1, 3
        assert np.array_equal(mapped, expected) and np.array_equal(np.load(path), expected)
        mapped[:] = 7  # stays here
        assert np.array_equal(np.load(path), expected)


def test_rows_are_on_the_disk_before_they_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with SharedTable(tmp_path / "table.npy", (3, 2)) as table:
        at_sync = []
        monkeypatch.setattr("os.fsync", lambda _: at_sync.append((table.is_done(1), table.mapped()[1].tolist())))
        table.write(1, np.array([1, 2], np.float32))
        assert at_sync == [(False, [1, 2])] and table.is_done(1)


def test_a_file_that_was_cut_is_filled_again(tmp_path: Path):
    expected = encode(tmp_path, Backbone()).dataset.train_inputs.clone()
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:200])
    assert torch.equal(encode(tmp_path, Backbone()).dataset.train_inputs, expected)


def test_on_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def lockf(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    expected = encode(tmp_path / "other", Backbone()).dataset.train_inputs
    monkeypatch.setattr(fcntl, "lockf", lockf)
    backbone = Backbone()
    assert torch.equal(encode(tmp_path / "cache", backbone).dataset.train_inputs, expected)
    assert sorted(backbone.seen) == list(range(TRAIN + TEST))


def test_a_cache_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"features cannot be kept in .*file.*XDG_CACHE_HOME"):
        encode(tmp_path / "file", Backbone())
