"""Features of video frames, computed once per frame and kept on the disk.

    features[n, k] = backbone(frame k of clip n),   zero beyond the clip's last frame

In training they are inputs like any others: no backbone is evaluated then, on no grid. Any number of processes may
compute them at once, and share the clips.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lpgpu.data.dataset import Dataset
from lpgpu.data.errors import DataError
from lpgpu.data.hmdb51 import Clip
from lpgpu.data.shared_table import SharedTable

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which pretrained backbones were trained on
CHUNK = 32  # frames per call of the backbone


class FrameEncoder:
    """Features of frames, by any backbone: an nn.Module from `[n, 3, size, size]` to `[n, features]`.

    Frames are scaled so that the short side has `size` pixels, cut to the centre square, and normalised as for
    ImageNet. `name` tells encoders apart in the cache.
    """

    def __init__(self, backbone: nn.Module, name: str, *, size: int = 240, device: torch.device | str = "cpu"):
        self.backbone = backbone.eval().to(device)
        self.name, self.size, self.device = name, size, torch.device(device)

    @torch.no_grad()
    def __call__(self, frames: np.ndarray) -> Tensor:
        """float32 `[frames, features]` of uint8 `[frames, height, width, 3]`, on the CPU."""
        mean, std = (torch.tensor(values, device=self.device)[:, None, None] for values in (MEAN, STD))
        features = []
        for chunk in torch.as_tensor(frames).split(CHUNK):
            x = self._square(chunk.to(self.device).permute(0, 3, 1, 2).float() / 255)
            features.append(self.backbone((x - mean) / std).float().cpu())
        return torch.cat(features)

    def _square(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        short = min(height, width)
        target = [max(self.size, round(side * self.size / short)) for side in (height, width)]
        if target != [height, width]:
            x = nn.functional.interpolate(x, target, mode="bilinear", antialias=True, align_corners=False)
        top, left = (target[0] - self.size) // 2, (target[1] - self.size) // 2
        return x[..., top : top + self.size, left : left + self.size]


@dataclass
class Encoded:
    """A data set of features, and the seconds it took: "disk" to read and decode frames, "encoder" for features."""

    dataset: Dataset
    seconds: dict[str, float] = field(default_factory=lambda: {"disk": 0.0, "encoder": 0.0})


def encode_clips(
    clips: Sequence[Clip],
    encoder: FrameEncoder,
    cache: Path,
    *,
    frames: int,
    features: int,
    rank: int = 0,
    ranks: int = 1,
) -> Encoded:
    """The clips as sequences `[n, frames, features]`, truncated or padded with zeros, mapped from files below `cache`.

    A clip that is in the cache is not read, one that another process works on is left to it; an interruption loses the
    clip under way. All clips are there on return. Of several `ranks` that call this at once each begins elsewhere.

    Raises:
        DataError: when a clip is damaged, or the cache cannot be written.
    """
    seconds = {"disk": 0.0, "encoder": 0.0}
    parts = {}
    for name, test in (("train", False), ("test", True)):
        chosen = [clip for clip in clips if clip.test == test]
        path = _path(chosen, encoder, cache, frames, features)
        try:
            with SharedTable(path, (len(chosen), frames, features)) as table:
                _fill(table, chosen, encoder, len(chosen) * rank // ranks, seconds)
                parts[name] = torch.from_numpy(table.mapped())
        except OSError as error:
            raise DataError(
                f"features cannot be kept in {path} ({error}); name a folder with room for them in XDG_CACHE_HOME"
            ) from error
        parts[f"{name}_labels"] = torch.tensor([clip.label for clip in chosen])
    dataset = Dataset(
        train_inputs=parts["train"],
        train_labels=parts["train_labels"],
        test_inputs=parts["test"],
        test_labels=parts["test_labels"],
        classes=1 + max(clip.label for clip in clips),
        on_disk=True,
    )
    return Encoded(dataset, seconds)


def _path(clips: Sequence[Clip], encoder: FrameEncoder, cache: Path, frames: int, features: int) -> Path:
    """The file below `cache` for the features of these clips."""
    key = "\n".join([encoder.name, f"{encoder.size} {frames} {features}", *(clip.stamp for clip in clips)])
    return cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"


def _fill(
    table: SharedTable, clips: Sequence[Clip], encoder: FrameEncoder, first: int, seconds: dict[str, float]
) -> None:
    """Compute the features that are missing, from clip `first` on and around."""
    order = [*range(first, len(clips)), *range(first)]
    for wait in (False, True):  # at the end for what others have begun, and may never finish
        for place in order:
            if not table.is_done(place) and table.claim(place, wait=wait):
                try:
                    if not table.is_done(place):  # by whoever had claimed it
                        table.write(place, _encoded(clips[place], encoder, table.shape[1], seconds))
                finally:
                    table.release(place)


def _encoded(clip: Clip, encoder: FrameEncoder, frames: int, seconds: dict[str, float]) -> np.ndarray:
    """The features of at most so many frames of a clip, [frames there are, features]."""
    start = time.perf_counter()
    read = clip.read(frames)
    seconds["disk"] += time.perf_counter() - start
    start = time.perf_counter()
    encoded = encoder(read).numpy()
    seconds["encoder"] += time.perf_counter() - start
    return encoded
