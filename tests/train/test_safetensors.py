"""Checkpoints' weights as safetensors: the same as in the checkpoint, from which alone a run is continued."""

import json
import sys
from pathlib import Path

import pytest
import torch

from lpgpu import load_weights
from lpgpu.train import InputError, Run, train
from lpgpu.train.loop.trainer import Trainer
from tests.train.helpers import InterruptAtStep, network_of, tiny_run
from tests.train.test_resume import assert_same_runs

safetensors = pytest.importorskip("safetensors", reason="needs safetensors: pip install safetensors")
pytestmark = pytest.mark.usefixtures("no_plots")


def weights_of(run: Run) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The weights in the run's folder, and what the file says about them."""
    with safetensors.safe_open(run.folder / "weights.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def assert_those_of_the_checkpoint(run: Run) -> None:
    (weights, _), expected = weights_of(run), network_of(run)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())


def test_weights_beside_the_checkpoint_change_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = tiny_run(tmp_path / "without")
    train(without)
    assert not (without.folder / "weights.safetensors").exists()
    run = tiny_run(tmp_path / "with", safetensors=True, checkpoint_every=2)
    with monkeypatch.context() as patch:
        InterruptAtStep(patch, 7)  # of four batches an epoch
        with pytest.raises(KeyboardInterrupt):
            train(run)
    assert_those_of_the_checkpoint(run)
    (run.folder / ".weights.safetensors.left").touch()
    train(Run.resume(run.folder, {}))
    assert_same_runs(run, without)
    assert_those_of_the_checkpoint(run)
    assert weights_of(run)[1] == {"format": "pt", "recipe": "digits", "level": "0", "epoch": "2"}
    assert not any(path.name.startswith(".") for path in run.folder.iterdir())
    network = Trainer(run.recipe, run.options).network
    load_weights(network, run.folder / "weights.safetensors")
    assert all(torch.equal(value, network_of(run)[name]) for name, value in network.state_dict().items())


def test_a_run_of_before_may_begin_to_write_them(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", epochs=1)
    train(run)
    config = json.loads((run.folder / "config.json").read_text())
    del config["options"]["safetensors"]
    (run.folder / "config.json").write_text(json.dumps(config))
    train(Run.resume(run.folder, {"epochs": 2, "safetensors": True}))
    assert_those_of_the_checkpoint(run)


def test_a_missing_package_ends_a_run_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(tmp_path / "run", safetensors=True)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.delitem(sys.modules, "safetensors.torch", raising=False)
    with pytest.raises(InputError, match=r"safetensors is on, but .*pip install lpgpu\[safetensors\]"):
        train(run)
    assert not run.folder.exists()
