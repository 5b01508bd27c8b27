"""HMDB51: clips of human motion from films and web videos, 51 classes. Which clips there are, and their frames.

H. Kuehne, H. Jhuang, E. Garrote, T. Poggio, T. Serre, HMDB: A Large Video Database for Human Motion Recognition (ICCV
2011), Serre Lab, Brown University.

    DIR/hmdb51_clips.npz    video [n, F, H, W, 3] uint8, label_name, name, split [n, 3]
or, as published,
    DIR/testTrainMulti_7030_splits/CLASS_test_split{1,2,3}.txt  lines "CLIP.avi 0|1|2": unused, training, test
    DIR/CLASS/CLIP.avi                                          or decoded: CLIP.avi.npy, [F, H, W, 3] uint8
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lpgpu.data.errors import DataError
from lpgpu.data.files import read_npy, read_npz, read_text, unreadable

NPZ = "hmdb51_clips.npz"
SPLITS = "testTrainMulti_7030_splits"
SIX = ("chew", "eat", "jump", "run", "sit", "walk")


@dataclass(frozen=True)
class Clip:
    """One clip: its name, its class's place among those asked for, whether it tests, and a way to its frames.

    `read(most)` returns the first frames, at most so many, uint8 `[frames, height, width, 3]`; `stamp` tells contents
    apart, of files by their names and sizes, without reading them.
    """

    name: str
    label: int
    test: bool
    read: Callable[[int], np.ndarray]
    stamp: str


def find_hmdb51(data_dir: Path | None, classes: Sequence[str] = SIX, split: int = 1) -> list[Clip]:
    """The training and test clips of `classes` in one of the three official splits, in a fixed order.

    Args:
        data_dir: the folder described above; not searched any deeper, and never written to.
        classes: names; empty: all classes that the split lists name.

    Raises:
        DataError: when nothing is found, a class or a clip is missing, or a list or the archive is damaged.
    """
    if data_dir is None:
        raise DataError(
            "HMDB51 is not downloaded, since its owner publishes no checksum; fetch the clips and the split lists from "
            f"the Serre Lab, unpack them as DIR/CLASS/CLIP.avi and DIR/{SPLITS}, and name DIR with --data-dir"
        )
    if (data_dir / NPZ).is_file():
        clips = _from_npz(data_dir / NPZ, classes, split)
    elif (data_dir / SPLITS).is_dir():
        names = classes or sorted(
            path.name.partition("_test_split")[0] for path in (data_dir / SPLITS).glob("*_test_split1.txt")
        )
        clips = [clip for label, name in enumerate(names) for clip in _of_class(data_dir, name, label, split)]
        classes = names
    else:
        raise DataError(f"{data_dir} holds neither {NPZ} nor {SPLITS}; name with --data-dir the folder that holds one")
    for part, tests in (("training", False), ("test", True)):
        there = {clip.label for clip in clips if clip.test == tests}
        missing = [name for label, name in enumerate(classes) if label not in there]
        if missing:
            raise DataError(f"{data_dir} is no data set to train on: it has no {part} clip of {', '.join(missing)}")
    return clips


def _of_class(data_dir: Path, name: str, label: int, split: int) -> list[Clip]:
    listing = data_dir / SPLITS / f"{name}_test_split{split}.txt"
    if not listing.is_file():
        raise DataError(f"{listing} does not exist; expected the split lists of all classes asked for, as published")
    clips = []
    for number, line in enumerate(read_text(listing).splitlines(), start=1):
        file, _, use = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if use not in ("0", "1", "2") or not file:
            raise DataError(f"line {number} of {listing} is {line!r}; expected a clip's name and 0, 1 or 2")
        if use != "0":
            clips.append(_clip(data_dir / name / file, label, use == "2"))
    return clips


def _clip(path: Path, label: int, test: bool) -> Clip:
    decoded = path.with_name(f"{path.name}.npy")
    for there, read in ((decoded, _read_frames), (path, decode)):
        if there.is_file():
            stamp = f"{there.name} {there.stat().st_size}"
            return Clip(path.name, label, test, lambda most, read=read, there=there: read(there, most), stamp)
    raise DataError(f"{path} does not exist, but the split lists name it; expected all clips of its class")


def decode(path: Path, most: int) -> np.ndarray:
    """The first frames of a video file, at most so many, uint8 `[frames, height, width, 3]`.

    Raises `DataError` without the package `av`, or where the file is damaged or cut off: FFmpeg, left alone, makes up
    what is missing of a frame, and ends early without a word.
    """
    try:
        import av
    except ImportError as error:
        raise DataError(f"{path} cannot be decoded without the package av: pip install 'lpgpu[hmdb51]'") from error
    frames: list[np.ndarray] = []
    try:
        # some clips carry a tag that is not UTF-8
        with av.open(str(path), metadata_errors="ignore") as container:
            declared = container.streams.video[0].frames
            for frame in container.decode(video=0):
                if frame.is_corrupt:
                    raise _damaged(path, f"its frame {len(frames)} cannot be decoded whole")
                frames.append(frame.to_ndarray(format="rgb24"))
                if frames[-1].shape != frames[0].shape:
                    sizes = " to ".join(f"{width}×{height}" for height, width, _ in (frames[0].shape, frames[-1].shape))
                    raise _damaged(path, f"from frame {len(frames) - 1} on the size of its frames changes, {sizes}")
                if len(frames) == most:
                    break
    except (av.FFmpegError, OSError, IndexError) as error:
        raise unreadable(path, error, "a video") from error
    # DivX may pack two frames into one and leave an empty one behind, which the header counts
    if not frames or len(frames) < min(most, declared - 1):
        raise _damaged(path, f"its header declares {declared} frames, and it has {len(frames)}")
    return np.stack(frames)


def _damaged(path: Path, how: str) -> DataError:
    return DataError(f"{path} is damaged: {how}; fetch it again, or leave it out, with a 0 in the split lists")


def _read_frames(path: Path, most: int) -> np.ndarray:
    return _checked(path, read_npy(path))[:most]


def _checked(path: Path, frames: np.ndarray) -> np.ndarray:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise DataError(f"{path} has frames {frames.dtype} {frames.shape}; expected uint8 (n, height, width, 3)")
    return frames


def _from_npz(path: Path, classes: Sequence[str], split: int) -> list[Clip]:
    video, kind, names, uses = read_npz(path, ("video", "label_name", "name", "split"))
    shapes = [array.shape for array in (video, kind, names, uses)]
    count = len(video) if video.ndim == 5 else -1
    if shapes[1:3] != [(count,), (count,)] or uses.shape[:1] != (count,) or uses.ndim != 2 or uses.shape[1] < split:
        raise DataError(
            f"{path} has video, label_name, name and split of the shapes {shapes}; expected (n, frames, height, width, "
            f"3), (n,), (n,) and (n, {split} or more)"
        )
    known = list(classes or sorted(set(kind.tolist())))
    clips = []
    for i in range(count):
        frames, use = _checked(path, video[i]), int(uses[i, split - 1])
        if kind[i] in known and use:
            stamp = f"{names[i]} {frames.shape} {hashlib.sha256(frames.tobytes()).hexdigest()}"
            read = lambda most, frames=frames: frames[:most]  # noqa: E731
            clips.append(Clip(str(names[i]), known.index(str(kind[i])), use == 2, read, stamp))
    return clips
