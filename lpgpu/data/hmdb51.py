"""HMDB51: clips of human motion from films and web videos, 51 classes. Which clips there are, and their frames.

H. Kuehne, H. Jhuang, E. Garrote, T. Poggio, T. Serre, HMDB: A Large Video Database for Human Motion Recognition (ICCV
2011), Serre Lab, Brown University.

    DIR/hmdb51_clips.npz    video [n, F, H, W, 3] uint8, label_name, name, split [n, 3]
or, as published,
    DIR/testTrainMulti_7030_splits/CLASS_test_split{1,2,3}.txt  lines "CLIP.avi 0|1|2": unused, training, test
    DIR/CLASS/CLIP.avi                                          or decoded: CLIP.avi.npy, [F, H, W, 3] uint8
"""

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lpgpu.data.errors import DataError, array_of

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
    for number, line in enumerate(listing.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
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

    Raises `DataError` without the package `av`, or where the file is damaged.
    """
    try:
        import av
    except ImportError as error:
        raise DataError(f"{path} cannot be decoded without the package av: pip install 'lpgpu[hmdb51]'") from error
    frames: list[np.ndarray] = []
    try:
        # some clips carry a tag that is not UTF-8
        with av.open(str(path), metadata_errors="ignore") as container:
            for frame in container.decode(video=0):
                frames.append(frame.to_ndarray(format="rgb24"))
                if len(frames) == most:
                    break
    except (av.FFmpegError, OSError, ValueError, IndexError) as error:
        raise DataError(f"{path} is damaged and cannot be decoded ({error}); fetch it again") from error
    if not frames:
        raise DataError(f"{path} is damaged: it has no frame; fetch it again")
    return np.stack(frames)


def _read_frames(path: Path, most: int) -> np.ndarray:
    try:
        frames = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is damaged and cannot be read ({error})") from error
    return _checked(path, frames)[:most]


def _checked(path: Path, frames: np.ndarray) -> np.ndarray:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise DataError(f"{path} has frames {frames.dtype} {frames.shape}; expected uint8 (n, height, width, 3)")
    return frames


def _from_npz(path: Path, classes: Sequence[str], split: int) -> list[Clip]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            video, kind, names, uses = (arrays[key] for key in ("video", "label_name", "name", "split"))
    except KeyError as error:
        raise DataError(f"{path} has no array {array_of(error)}; expected video, label_name, name and split") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged and cannot be read ({error})") from error
    known = list(classes or sorted(set(kind.tolist())))
    clips = []
    for i in range(len(names)):
        frames, use = _checked(path, video[i]), int(uses[i, split - 1])
        if kind[i] in known and use:
            stamp = f"{names[i]} {frames.shape} {hashlib.sha256(frames.tobytes()).hexdigest()}"
            read = lambda most, frames=frames: frames[:most]  # noqa: E731
            clips.append(Clip(str(names[i]), known.index(str(kind[i])), use == 2, read, stamp))
    return clips
