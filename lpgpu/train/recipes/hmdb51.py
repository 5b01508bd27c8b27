"""Human motion from video (HMDB51): a GRU over the features of 128 frames of a clip.

    x_k = ResNet(frame k),   h_k = GRU(x_k, h_{k−1}),   scores = linear(h_128 of the last layer)

After G. E. Moon and E. C. Cyr, Parallel training of GRU networks with a multi-grid solver for long sequences (ICLR
2022), whose setting is the default: frames of 240×240, a pretrained ResNet with 1000 features, computed once per frame
and never on coarse grids; 2 layers of 1000, implicit; batch 100, Adam with 1e-3; six classes (chew, eat, jump, run,
sit, walk), or with `--classes all` those of all split lists.

The data are not part of the install: see `lpgpu.data.hmdb51` for what `--data-dir` may hold. The ResNet and the video
decoder come with `pip install 'lpgpu[hmdb51]'`. Features are kept in $XDG_CACHE_HOME/lpgpu or ~/.cache/lpgpu; of
several ranks each computes some.
"""

import hashlib
import pickle
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from textwrap import shorten
from typing import Literal

import torch
from torch import nn

from lpgpu.data.download import cache_folder
from lpgpu.data.frame_features import Encoded, FrameEncoder, encode_clips
from lpgpu.data.hmdb51 import SIX, find_hmdb51
from lpgpu.train.setup.errors import InputError
from lpgpu.train.setup.networks import GRUOptions, SequenceNetwork
from lpgpu.train.setup.option_types import option
from lpgpu.train.setup.recipe import Problem, Recipe

FEATURES = 1000


@dataclass(frozen=True, kw_only=True)
class VideoOptions(GRUOptions):
    """Options of this recipe."""

    classes: tuple[str, ...] = option(SIX, "classes to tell apart; or all")
    split: int = option(1, "which of the three official splits", least=1)
    frames: int = option(128, "frames per clip, truncated or padded with zero features", least=1)
    frame_size: int = option(240, "frames are scaled and cut to so many pixels squared", least=32)
    backbone: Literal["resnet18", "resnet34", "resnet50"] = option("resnet18", "pretrained network for the frames")
    weights: Path | None = option(None, "file with the backbone's state_dict; without it they are downloaded")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split > 3:
            raise InputError(f"split is {self.split}; expected 1, 2 or 3")
        if self.weights is not None and not self.weights.is_file():
            raise InputError(f"weights is {str(self.weights)!r}; expected an existing file")


def build(options: VideoOptions) -> Problem:
    """Network and data of the recipe."""
    encoded = _encoded(options)
    network = SequenceNetwork(FEATURES, encoded.dataset.classes, options)
    return Problem(network=network, dataset=encoded.dataset, seconds=encoded.seconds)


def load_backbone(name: str, weights: Path | None) -> nn.Module:
    """torchvision's network of this name, with weights from a file or, None, as torchvision downloads them.

    Raises `InputError`, with the cure, without a torchvision that works, without a network, or for weights of something
    else.
    """
    try:
        from torchvision import models
    except ImportError as error:
        raise InputError("the features of frames need torchvision: pip install 'lpgpu[hmdb51]'") from error
    except RuntimeError as error:
        raise InputError(
            f"torchvision was built for another torch than {torch.__version__} ({_brief(error)}); install the two "
            "together, from where torch came from: pip install --force-reinstall torch torchvision"
        ) from error
    try:
        network = getattr(models, name)(weights="DEFAULT" if weights is None else None)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"the weights of {name} could not be downloaded ({_brief(error)}); fetch them where there is a network, "
            "and name their file with --weights"
        ) from error
    if weights is not None:
        _load_weights(network, name, weights)
    return network


def _load_weights(network: nn.Module, name: str, weights: Path) -> None:
    try:
        missing, unknown = network.load_state_dict(
            torch.load(weights, map_location="cpu", weights_only=True), strict=False
        )
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, TypeError) as error:
        raise InputError(f"{weights} holds no weights of {name}: {_brief(error)}; expected its state_dict") from error
    if missing or unknown:
        raise InputError(
            f"{weights} holds no weights of {name}: it lacks {_some(missing)}, and has besides {_some(unknown)}; "
            "expected its state_dict"
        )


def _brief(error: Exception) -> str:
    """The beginning of an error's message."""
    lines = str(error).split("\n")
    more = f" (and {len(lines) - 2} more lines)" if len(lines) > 2 else ""
    return shorten(" ".join(lines[:2]), 200, placeholder=" …") + more


def _some(names: list[str]) -> str:
    """The first of many names, and how many there are."""
    few = ", ".join(names[:3])
    return f"{few}, … ({len(names)} in all)" if len(names) > 3 else few or "nothing"


def _fingerprint(network: nn.Module) -> str:
    """A checksum of the values of all weights."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _encoded(options: VideoOptions) -> Encoded:
    key = ("data_dir", "classes", "split", "frames", "frame_size", "backbone", "weights")
    ranks = options.ranks.grid.communicator
    return _features(*(getattr(options, name) for name in key), options.torch_device(), ranks.rank, ranks.size)


@lru_cache(maxsize=1)
def _features(
    data_dir: Path | None,
    classes: tuple[str, ...],
    split: int,
    frames: int,
    size: int,
    backbone: str,
    weights: Path | None,
    device: torch.device,
    rank: int,
    ranks: int,
) -> Encoded:
    clips = find_hmdb51(data_dir, () if classes == ("all",) else classes, split)
    network = load_backbone(backbone, weights)
    encoder = FrameEncoder(network, f"{backbone} {_fingerprint(network)}", size=size, device=device)
    cache = cache_folder() / "hmdb51"
    return encode_clips(clips, encoder, cache, frames=frames, features=FEATURES, rank=rank, ranks=ranks)


RECIPE = Recipe(
    name="hmdb51",
    summary="GRU that tells human motions from 128 frames of a video clip (needs the data set)",
    defaults=VideoOptions(epochs=20, batch_size=100, hidden_size=1000, num_layers=2),
    build=build,
    prepare=_encoded,
)
