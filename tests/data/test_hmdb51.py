"""HMDB51: clips and split lists, frames, and features that are computed once."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lpgpu.data import DataError
from lpgpu.data.frame_features import MEAN, STD, FrameEncoder, encode_clips
from lpgpu.data.hmdb51 import SPLITS, find_hmdb51
from lpgpu.train import InputError, Run, find_recipe, train
from lpgpu.train.recipes.hmdb51 import VideoOptions, load_backbone
from tests.data.har_files import SHARED, need

CLASSES = ("eat", "run")


def write_clips(folder: Path) -> Path:
    """Two classes of three decoded clips of 3 … 7 frames, one of them for tests, and one clip that is not used."""
    random = np.random.default_rng()
    (folder / SPLITS).mkdir(parents=True)
    for place, name in enumerate(CLASSES):
        (folder / name).mkdir()
        lines = []
        for i, use in enumerate((1, 2, 1, 0)):
            frames = random.integers(0, 256, (3 + 2 * i - place % 2, 40, 56, 3), dtype=np.uint8)
            np.save(folder / name / f"clip_{i}.avi.npy", frames)
            lines.append(f"clip_{i}.avi {use} \n")
        (folder / SPLITS / f"{name}_test_split1.txt").write_text("".join(lines))
    return folder


class Backbone(nn.Module):
    """1000 features that are sums over pixels; counts its frames."""

    frames = 0

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(1000.0) / 1e3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Backbone.frames += len(x)
        return x.mean((1, 2, 3))[:, None] * self.weight


def test_clips_of_the_split_lists(tmp_path: Path):
    clips = find_hmdb51(write_clips(tmp_path), CLASSES)
    assert [(clip.name, clip.label, clip.test) for clip in clips] == [
        (f"clip_{i}.avi", label, i == 1) for label in (0, 1) for i in (0, 1, 2)
    ]
    assert clips[0].read(2).shape == (2, 40, 56, 3) and len(clips[2].read(99)) == 7
    assert len(find_hmdb51(tmp_path, ())) == 6


def test_features_once_per_frame_padded_and_cached(tmp_path: Path):
    clips = find_hmdb51(write_clips(tmp_path / "clips"), CLASSES)
    encoder = FrameEncoder(Backbone(), "small", size=16)
    Backbone.frames = 0
    encoded = encode_clips(clips, encoder, tmp_path / "cache", frames=5, features=1000)
    lengths = [min(5, len(clip.read(99))) for clip in clips]
    assert Backbone.frames == sum(lengths)
    data = encoded.dataset
    assert data.train_inputs.shape == (4, 5, 1000) and data.test_inputs.shape == (2, 5, 1000) and data.on_disk
    assert data.train_labels.tolist() == [0, 0, 1, 1] and data.test_labels.tolist() == [0, 1]
    train_clips = [(clip, length) for clip, length in zip(clips, lengths, strict=True) if not clip.test]
    for came, (clip, length) in zip(data.train_inputs, train_clips, strict=True):
        torch.testing.assert_close(came[:length], encoder(clip.read(5)))
        assert (came[length:] == 0).all()
    assert encoded.seconds["disk"] > 0 and encoded.seconds["encoder"] > 0
    Backbone.frames = 0
    again = encode_clips(clips, encoder, tmp_path / "cache", frames=5, features=1000)
    assert Backbone.frames == 0 and again.seconds == {"disk": 0.0, "encoder": 0.0}
    assert torch.equal(again.dataset.train_inputs, data.train_inputs)


def test_an_interruption_loses_the_clip_under_way(tmp_path: Path):
    clips = find_hmdb51(write_clips(tmp_path / "clips"), CLASSES)
    encoder, calls = FrameEncoder(Backbone(), "small", size=16), []

    def interrupted(frames: np.ndarray) -> torch.Tensor:
        calls.append(len(frames))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encoder(frames)

    interrupted.name, interrupted.size = "small", 16  # pyright: ignore[reportFunctionMemberAccess]
    settings = {"frames": 5, "features": 1000}
    with pytest.raises(KeyboardInterrupt):
        encode_clips(clips, interrupted, tmp_path / "cache", **settings)  # pyright: ignore[reportArgumentType]
    encoded = encode_clips(clips, interrupted, tmp_path / "cache", **settings)  # pyright: ignore[reportArgumentType]
    assert len(calls) == 6 + 1
    whole = encode_clips(clips, encoder, tmp_path / "other", **settings)
    assert torch.equal(encoded.dataset.train_inputs, whole.dataset.train_inputs)


def test_frames_are_scaled_cut_and_normalised():
    frames = np.zeros((2, 20, 60, 3), np.uint8)
    frames[:, :, 20:40] = (255, 128, 0)  # the centre square
    seen = []

    class Look(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x.mean((2, 3))

    features = FrameEncoder(Look(), "look", size=10)(frames)
    assert seen[0].shape == (2, 3, 10, 10)
    expected = (torch.tensor([1.0, 128 / 255, 0.0]) - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(seen[0][0, :, 5, 5], expected)
    assert features.shape == (2, 3)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / SPLITS / "run_test_split1.txt").unlink(), "run_test_split1.txt does not exist"),
        (lambda folder: (folder / "run" / "clip_1.avi.npy").unlink(), "clip_1.avi does not exist, but the split lists"),
        (
            lambda folder: (folder / SPLITS / "run_test_split1.txt").write_text("clip_1.avi 2"),
            "no training clip of run",
        ),
        (lambda folder: (folder / SPLITS / "run_test_split1.txt").write_text("clip_0.avi 1"), "no test clip of run"),
        (
            lambda folder: (folder / SPLITS / "run_test_split1.txt").write_text("clip_0.avi x"),
            "line 1 of .* expected a",
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, damage, message: str):
    damage(write_clips(tmp_path))
    with pytest.raises(DataError, match=message):
        find_hmdb51(tmp_path, CLASSES)


def test_no_data(tmp_path: Path):
    with pytest.raises(DataError, match=f"holds neither hmdb51_clips.npz nor {SPLITS}"):
        find_hmdb51(tmp_path)
    with pytest.raises(DataError, match=r"not downloaded, .* name DIR with --data-dir"):
        find_hmdb51(None)


def test_damaged_frames(tmp_path: Path):
    path = write_clips(tmp_path) / "eat" / "clip_0.avi.npy"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"clip_0.avi.npy is damaged"):
        find_hmdb51(tmp_path, CLASSES)[0].read(5)


def test_without_the_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write_clips(tmp_path)
    (folder / "eat" / "clip_0.avi.npy").rename(folder / "eat" / "clip_0.avi")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"without the package av: pip install 'lpgpu\[hmdb51\]'"):
        find_hmdb51(folder, CLASSES)[0].read(5)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1"])
def test_split_lists_with_a_byte_order_mark_or_in_latin_1(tmp_path: Path, encoding: str):
    folder = write_clips(tmp_path)
    (folder / "eat" / "clip_0.avi.npy").rename(folder / "eat" / "Amélie_0.avi.npy")
    listing = folder / SPLITS / "eat_test_split1.txt"
    listing.write_bytes(listing.read_text().replace("clip_0", "Amélie_0").encode(encoding))
    assert find_hmdb51(folder, CLASSES)[0].name == "Amélie_0.avi"


def test_a_file_that_is_no_video(tmp_path: Path):
    pytest.importorskip("av", reason="needs the package av")
    folder = write_clips(tmp_path)
    (folder / "eat" / "clip_0.avi.npy").unlink()
    (folder / "eat" / "clip_0.avi").write_bytes(b"RIFF no video")
    with pytest.raises(DataError, match=r"clip_0.avi is damaged"):
        find_hmdb51(folder, CLASSES)[0].read(5)


def test_the_real_npz():
    need(SHARED / "hmdb51_clips.npz")
    clips = find_hmdb51(SHARED, ("wave",))
    assert [(clip.test, clip.read(99).shape) for clip in clips] == [
        (False, (16, 112, 112, 3)),
        (True, (16, 112, 112, 3)),
    ]
    with pytest.raises(DataError, match="no training clip of chew, eat, jump, run, sit, walk"):
        find_hmdb51(SHARED)


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch):
    """A torchvision whose ResNets are the small backbone; what was asked for is listed."""
    asked: list[str | None] = []

    def resnet18(weights: str | None = None) -> nn.Module:
        asked.append(weights)
        return Backbone()

    package, models = types.ModuleType("torchvision"), types.ModuleType("torchvision.models")
    models.resnet18 = resnet18  # pyright: ignore[reportAttributeAccessIssue]
    package.models = models  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    return asked


def test_backbone_from_a_file_or_downloaded(tmp_path: Path, torchvision, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "resnet18.pth"
    torch.save({"weight": torch.ones(1000)}, path)
    network = load_backbone("resnet18", path)
    assert torchvision == [None] and torch.equal(network.state_dict()["weight"], torch.ones(1000))
    load_backbone("resnet18", None)
    assert torchvision[-1] == "DEFAULT"

    def no_network(weights=None):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models.resnet18", no_network)
    with pytest.raises(InputError, match=r"could not be downloaded .* name their file with --weights"):
        load_backbone("resnet18", None)


WRONG: dict[str, tuple[object, str]] = {
    "another network": ({f"layer.{i}": torch.ones(1) for i in range(200)}, r"lacks weight, and .* \(200 in all\)"),
    "another width": ({"weight": torch.ones(999)}, "size mismatch for weight"),
    "a checkpoint": ({"state_dict": {"weight": torch.ones(1000)}}, "lacks weight, and has besides state_dict"),
    "no dictionary": (torch.ones(3), "Tensor"),
    "a module": (nn.Linear(1, 1), "Weights only load failed"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.usefixtures("torchvision")
def test_weights_of_something_else_are_told_in_a_few_words(tmp_path: Path, case: str):
    content, words = WRONG[case]
    torch.save(content, tmp_path / "resnet18.pth")
    with pytest.raises(InputError, match=rf"resnet18.pth holds no weights of resnet18: .*{words}") as caught:
        load_backbone("resnet18", tmp_path / "resnet18.pth")
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


@pytest.mark.usefixtures("torchvision")
def test_an_empty_file_of_weights(tmp_path: Path):
    (tmp_path / "resnet18.pth").touch()
    with pytest.raises(InputError, match=r"resnet18\.pth holds no weights of resnet18"):
        load_backbone("resnet18", tmp_path / "resnet18.pth")


def test_a_torchvision_that_does_not_fit_torch(monkeypatch: pytest.MonkeyPatch):
    class Misfit(types.ModuleType):
        def __getattr__(self, name: str) -> object:
            raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setitem(sys.modules, "torchvision", Misfit("torchvision"))
    with pytest.raises(InputError, match=r"another torch than .* \(operator .* does not exist\); .*pip install"):
        load_backbone("resnet18", None)


def test_without_torchvision(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(InputError, match=r"need torchvision: pip install 'lpgpu\[hmdb51\]'"):
        load_backbone("resnet18", None)


@pytest.mark.usefixtures("torchvision")
def test_features_belong_to_the_values_of_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Not to their file's name and size."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, prepare = write_clips(tmp_path / "clips"), find_recipe("hmdb51").prepare

    def features(name: str, scale: float) -> tuple[torch.Tensor, int]:
        path = tmp_path / name / "tuned.pth"
        path.parent.mkdir()
        torch.save({"weight": torch.full((1000,), scale)}, path)
        Backbone.frames = 0
        encoded = prepare(VideoOptions(classes=CLASSES, frame_size=32, data_dir=folder, device="cpu", weights=path))
        return encoded.dataset.train_inputs, Backbone.frames  # pyright: ignore[reportAttributeAccessIssue]

    (one, frames), (other, more), (_, again) = features("a", 1.0), features("b", 2.0), features("c", 1.0)
    torch.testing.assert_close(other, 2 * one)
    assert frames == more > 0 and again == 0


@pytest.mark.usefixtures("torchvision")
def test_each_rank_begins_with_its_own_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr("lpgpu.train.recipes.hmdb51.encode_clips", lambda *_, **named: seen.append(named))
    communicator = types.SimpleNamespace(rank=1, size=3)
    ranks = types.SimpleNamespace(grid=types.SimpleNamespace(communicator=communicator))
    monkeypatch.setattr(VideoOptions, "ranks", ranks)
    options = VideoOptions(classes=CLASSES, data_dir=write_clips(tmp_path), device="cpu")
    find_recipe("hmdb51").prepare(options)
    assert [(named["rank"], named["ranks"]) for named in seen] == [(1, 3)]


def test_clips_of_one_archive_are_told_apart_by_their_frames(tmp_path: Path):
    stamps = []
    for colour in (1, 2):
        video = np.full((2, 3, 8, 8, 3), colour, np.uint8)
        names = {"label_name": ["run", "run"], "name": ["a", "b"], "split": [[1], [2]]}
        np.savez(tmp_path / "hmdb51_clips.npz", video=video, **names)
        stamps += [clip.stamp for clip in find_hmdb51(tmp_path, ("run",))]
    assert len(set(stamps)) == 4


@pytest.mark.usefixtures("torchvision")
def test_the_recipe_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("lpgpu.train.loop.training.draw_plots", lambda folder: [])
    folder = write_clips(tmp_path / "clips")
    before = sorted(folder.rglob("*"))
    options = VideoOptions(
        epochs=1,
        batch_size=3,
        hidden_size=4,
        classes=CLASSES,
        frames=6,
        frame_size=32,
        coarsening=2,
        levels=2,
        data_dir=folder,
        run_dir=tmp_path / "run",
        device="cpu",
    )
    summary = train(Run.create(find_recipe("hmdb51"), options))
    assert {"disk", "encoder", "forward", "backward", "optimizer"} <= summary["seconds"].keys()
    assert sorted(folder.rglob("*")) == before
    assert VideoOptions.from_json(options.to_json()) == options
