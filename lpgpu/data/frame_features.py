"""Features of video frames, computed once per frame and kept on the disk.

    features[n, k] = backbone(frame k of clip n),   zero beyond the clip's last frame

In training they are inputs like any others: no backbone is evaluated then, on no grid.
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
from lpgpu.data.hmdb51 import Clip

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


def encode_clips(clips: Sequence[Clip], encoder: FrameEncoder, cache: Path, *, frames: int, features: int) -> Encoded:
    """The clips as sequences `[n, frames, features]`, truncated or padded with zeros, mapped from files below `cache`.

    A clip that is in the cache is not read; an interruption loses the clip under way.
    """
    seconds = {"disk": 0.0, "encoder": 0.0}
    parts = {}
    for name, test in (("train", False), ("test", True)):
        chosen = [clip for clip in clips if clip.test == test]
        parts[name] = _features(chosen, encoder, cache, frames, features, seconds)
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


def _features(
    clips: Sequence[Clip], encoder: FrameEncoder, cache: Path, frames: int, features: int, seconds: dict[str, float]
) -> Tensor:
    key = "\n".join([encoder.name, f"{encoder.size} {frames} {features}", *(clip.stamp for clip in clips)])
    path = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"
    done_path = path.with_suffix(".done")
    cache.mkdir(parents=True, exist_ok=True)
    shape = (len(clips), frames, features)
    if not path.is_file() or not done_path.is_file() or done_path.stat().st_size != len(clips):
        np.lib.format.open_memmap(path, "w+", np.float32, shape).flush()
        done_path.write_bytes(bytes(len(clips)))
    table = np.lib.format.open_memmap(path, "r+")
    done = np.memmap(done_path, np.uint8, "r+")
    for place, clip in enumerate(clips):
        if not done[place]:
            start = time.perf_counter()
            read = clip.read(frames)
            seconds["disk"] += time.perf_counter() - start
            start = time.perf_counter()
            encoded = encoder(read).numpy()
            seconds["encoder"] += time.perf_counter() - start
            table[place] = 0.0
            table[place, : len(encoded)] = encoded
            table.flush()  # before it is marked as done
            done[place] = 1
            done.flush()
    del table, done
    return torch.from_numpy(np.load(path, mmap_mode="c"))
