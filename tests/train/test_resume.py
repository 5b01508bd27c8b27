"""Interruptions at any moment: in the middle of an epoch, and by kill -9 while a checkpoint is written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lpgpu.train import InputError, Run, train
from lpgpu.train.runs.metrics import read_records
from tests.train.helpers import InterruptAtStep, network_of, tiny_run, without_seconds

WAYS = {
    "adamw, scheduler, clip": {
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "scheduler": "OneCycleLR",
        "scheduler_options": "max_lr=0.01,total_steps=12",
        "scheduler_every": "batch",
        "clip": 0.5,
    },
    "lbfgs": {"optimizer": "lbfgs", "learning_rate": 1.0, "epochs": 4, "lbfgs_iterations": 2},
    "mgopt": {"mgopt": 1, "optimizer": "sgd", "learning_rate": 0.05, "solver": "serial", "epochs": 2},
    "adaptive": {"control": "adaptive", "probe_every": 3},
    "bias budget, amp": {"control": "bias-budget", "probe_every": 3, "bias_bound": 1e-3, "amp": True},
}


def assert_same_runs(came: Run, expected: Run) -> None:
    weights = network_of(expected)
    assert all(torch.equal(value, weights[name]) for name, value in network_of(came).items())
    left, right = read_records(came.metrics), read_records(expected.metrics)
    assert list(map(without_seconds, left)) == list(map(without_seconds, right))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("no_plots")
def test_resumed_within_an_epoch_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str):
    options = {"epochs": 3, **WAYS[way], "checkpoint_every": 2}
    whole = tiny_run(tmp_path / "whole", **options)
    train(whole)
    broken = tiny_run(tmp_path / "broken", **options)
    with monkeypatch.context() as patch:
        InterruptAtStep(
            patch, 4 if way in ("lbfgs", "mgopt") else 8
        )  # four batches an epoch: one after the last checkpoint
        with pytest.raises(KeyboardInterrupt):
            train(broken)
    batches = torch.load(broken.checkpoint, weights_only=True)["measures"]["batches"]
    assert batches == (0 if way == "lbfgs" else 2)
    torch.rand(17)
    train(Run.resume(broken.folder, {}))
    assert_same_runs(broken, whole)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from lpgpu.train import Run, train

torch.set_num_threads(1)
saved, original = 0, torch.save

def save(state, file):
    global saved
    saved += 1
    if saved == 6:
        original(state, file)
        file.truncate(file.tell() // 2)
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    original(state, file)

torch.save = save
train(Run.resume(Path(sys.argv[1]), {}))
"""


@pytest.mark.usefixtures("no_plots")
def test_killed_while_a_checkpoint_is_written(tmp_path: Path):
    options = {"epochs": 2, "checkpoint_every": 1}
    whole = tiny_run(tmp_path / "whole", **options)
    train(whole)
    broken = tiny_run(tmp_path / "broken", **options)
    # a run that has its first checkpoint only, to be continued by a process that dies in its sixth
    broken.checkpoint.write_bytes(_first_checkpoint(tmp_path, options))
    done = subprocess.run([sys.executable, "-c", KILLED, str(broken.folder)], env=os.environ, timeout=120)
    assert done.returncode == -9
    assert any(path.name.startswith(".checkpoint.pt.") for path in broken.folder.iterdir())
    assert torch.load(broken.checkpoint, weights_only=True)["epoch"] == 1
    train(Run.resume(broken.folder, {}))
    assert_same_runs(broken, whole)
    assert not any(path.name.startswith(".") for path in broken.folder.iterdir())


def _first_checkpoint(tmp_path: Path, options: dict) -> bytes:
    """What a run of these options writes before its first step."""
    run = tiny_run(tmp_path / "start", **options)
    with pytest.MonkeyPatch.context() as patch:
        InterruptAtStep(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            train(run)
    return run.checkpoint.read_bytes()


@pytest.mark.usefixtures("no_plots")
def test_a_changed_byte_is_noticed(tmp_path: Path):
    run = tiny_run(tmp_path / "run", epochs=1)
    train(run)
    weights = network_of(run)["1.layers.convolutions.0.weight"].numpy().tobytes()
    content = bytearray(run.checkpoint.read_bytes())
    content[content.index(weights[:64]) + 3] ^= 0x40
    run.checkpoint.write_bytes(content)
    before = run.metrics.read_bytes()
    with pytest.raises(InputError, match=r"checkpoint\.pt is damaged .* checksum"):
        train(Run.resume(run.folder, {"epochs": 2}))
    assert run.metrics.read_bytes() == before and run.checkpoint.read_bytes() == content
