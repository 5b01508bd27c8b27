"""Training runs: what they leave behind, and that an interruption changes nothing."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from lpgpu import MGRIT, Serial
from lpgpu.train import InputError, ODEOptions, Run, TrainingDivergedError, draw_plots, find_recipe, train
from lpgpu.train.metrics import read_records
from lpgpu.train.trainer import Trainer
from tests.train.helpers import tiny_run

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take longer than tiny runs."""
    monkeypatch.setattr("lpgpu.train.loop.draw_plots", lambda folder: [])


def network_of(run: Run) -> dict[str, torch.Tensor]:
    return torch.load(run.checkpoint, weights_only=True)["network"]


def without_seconds(record: dict) -> dict:
    return {name: value for name, value in record.items() if name != "seconds"}


class InterruptAtStep:
    """Makes the n-th training step raise KeyboardInterrupt."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int):
        self.left, self.original = step, Trainer._step
        monkeypatch.setattr(Trainer, "_step", lambda trainer, *rest: self(trainer, *rest))

    def __call__(self, trainer: Trainer, *rest) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        self.original(trainer, *rest)


@pytest.mark.parametrize("recipe", ["digits", "peaks", "seq-digits"])
def test_a_run_leaves_everything_in_its_folder(tmp_path: Path, recipe: str):
    run = tiny_run(tmp_path / "run", recipe)
    summary = train(run)
    names = {"checkpoint.pt", "config.json", "curves.png", "metrics.jsonl", "residuals.png", "timing.png"}
    assert {file.name for file in run.folder.iterdir()} == names
    assert all((run.folder / name).read_bytes().startswith(PNG) for name in names if name.endswith("png"))

    config = json.loads((run.folder / "config.json").read_text())
    assert config["recipe"] == recipe
    assert type(run.options).from_json(config["options"]) == run.options

    first, second, last = (json.loads(line) for line in run.metrics.read_text().splitlines())
    assert [first["epoch"], second["epoch"], last["kind"]] == [1, 2, "summary"]
    assert last == summary
    assert first["kind"] == "epoch"
    assert len(first["forward_residuals"]) == run.options.iterations
    assert len(first["adjoint_residuals"]) == run.options.adjoint_iterations
    assert set(first["seconds"]) == {"data", "forward", "backward", "optimizer", "evaluation"}
    assert 0 <= last["test_accuracy"] <= 1 and 0 <= last["test_accuracy_serial"] <= 1
    assert last["seconds"]["forward"] == pytest.approx(first["seconds"]["forward"] + second["seconds"]["forward"])
    assert 0 <= last["forward_reduction"] < 1


@pytest.mark.usefixtures("no_plots")
def test_serial_training_has_no_residuals(tmp_path: Path):
    summary = train(tiny_run(tmp_path / "run", solver="serial", epochs=1))
    assert summary["forward_residuals"] == [] and summary["forward_reduction"] is None
    assert summary["test_accuracy"] == summary["test_accuracy_serial"]


@pytest.mark.usefixtures("no_plots")
def test_training_lowers_the_loss(tmp_path: Path):
    run = tiny_run(tmp_path / "run", epochs=4, batch_size=100)
    train(run)
    losses = [record["train_loss"] for record in read_records(run.metrics)[:-1]]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.usefixtures("no_plots")
def test_resumed_run_is_bit_for_bit_the_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
):
    options = {"epochs": 4, "optimizer": optimizer, "learning_rate": 0.01}
    whole = tiny_run(tmp_path / "whole", **options)
    train(whole)
    broken = tiny_run(tmp_path / "broken", **options)
    with monkeypatch.context() as patch:
        InterruptAtStep(patch, 4 * 2 + 3)  # four batches an epoch: in the middle of the third epoch
        with pytest.raises(KeyboardInterrupt):
            train(broken)
    assert [record["epoch"] for record in read_records(broken.metrics)] == [1, 2]

    torch.rand(17)  # whatever else the process drew meanwhile
    train(Run.resume(broken.folder, {}))
    expected = network_of(whole)
    assert all(torch.equal(value, expected[name]) for name, value in network_of(broken).items())
    left, right = read_records(broken.metrics), read_records(whole.metrics)
    assert list(map(without_seconds, left)) == list(map(without_seconds, right))


@pytest.mark.usefixtures("no_plots")
def test_more_epochs_continue_a_finished_run(tmp_path: Path):
    whole = tiny_run(tmp_path / "whole", epochs=3)
    train(whole)
    short = tiny_run(tmp_path / "short", epochs=1)
    train(short)
    train(Run.resume(short.folder, {"epochs": 3}))
    expected = network_of(whole)
    assert all(torch.equal(value, expected[name]) for name, value in network_of(short).items())
    assert [record.get("epoch", "end") for record in read_records(short.metrics)] == [1, 2, 3, "end"]


@pytest.mark.usefixtures("no_plots")
def test_metrics_ahead_of_the_checkpoint_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = tiny_run(tmp_path / "run", epochs=2)
    original = torch.save

    def save_all_but_the_last(state, file):
        if state["epoch"] == 2:
            raise KeyboardInterrupt
        original(state, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save_all_but_the_last)
        with pytest.raises(KeyboardInterrupt):
            train(run)
    assert len(read_records(run.metrics)) == 2
    train(Run.resume(run.folder, {}))
    assert [record.get("epoch", "end") for record in read_records(run.metrics)] == [1, 2, "end"]


@pytest.mark.usefixtures("no_plots")
def test_fewer_epochs_than_are_done(tmp_path: Path):
    run = tiny_run(tmp_path / "run", epochs=2)
    train(run)
    content = run.metrics.read_bytes()
    with pytest.raises(InputError, match=r"epochs is 1, but .* has finished 2"):
        train(Run.resume(run.folder, {"epochs": 1}))
    assert run.metrics.read_bytes() == content


@pytest.mark.filterwarnings("ignore::lpgpu.DivergenceWarning")
@pytest.mark.parametrize("learning_rate", [1e12, 1e38])
@pytest.mark.usefixtures("no_plots")
def test_diverging_training_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path, learning_rate: float):
    run = tiny_run(tmp_path / "run", epochs=3, optimizer="sgd", learning_rate=learning_rate)
    with pytest.raises(TrainingDivergedError, match="try a smaller --learning-rate"):
        train(run)
    assert all(value.isfinite().all() for value in network_of(run).values())


def test_plots_of_an_unfinished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = tiny_run(tmp_path / "run")
    InterruptAtStep(monkeypatch, 6)
    with pytest.raises(KeyboardInterrupt):
        train(run)
    for plot in draw_plots(run.folder):
        assert plot.read_bytes().startswith(PNG)


def test_plots_of_what_is_no_run(tmp_path: Path):
    with pytest.raises(InputError, match="expected the folder of a run"):
        draw_plots(tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(InputError, match="holds no finished epoch"):
        draw_plots(tmp_path)


def test_exact_inference_gives_the_solver_back():
    recipe = find_recipe("digits")
    trainer = Trainer(recipe, ODEOptions(layers=8, channels=2, device="cpu", batch_size=360))
    (layers,) = trainer.problem.propagated
    solver, used = layers.solver, []
    trainer.network.register_forward_hook(lambda *_: used.append(layers.solver))
    trainer.evaluate_with(Serial())
    assert isinstance(solver, MGRIT) and set(map(type, used)) == {Serial}
    assert layers.solver is solver


def test_penalty_enters_the_gradient():
    recipe = find_recipe("peaks")
    options = ODEOptions(layers=4, channels=2, batch_size=5000, optimizer="sgd", learning_rate=1.0, device="cpu")
    plain, penalised = (
        Trainer(recipe, dataclasses.replace(options, smoothness=gamma, tikhonov=gamma)) for gamma in (0.0, 1e-2)
    )
    start = {name: value.detach().clone() for name, value in plain.network.named_parameters()}
    for trainer in (plain, penalised):
        trainer.run_epoch(lambda _: None)
    dt = options.final_time / options.layers
    stacked = {id(parameter) for parameter in penalised.problem.propagated[0].parameters()}
    for (name, a), b in zip(plain.network.named_parameters(), penalised.network.parameters(), strict=True):
        theta = start[name]
        gradient = theta.clone()
        if id(b) in stacked:
            gradient[:-1] -= theta.diff(dim=0) / dt
            gradient[1:] += theta.diff(dim=0) / dt
        torch.testing.assert_close(a - b, 1e-2 * gradient, atol=1e-5, rtol=1e-3)


def test_full_batch_is_one_step_and_a_small_last_batch_counts():
    recipe = find_recipe("digits")
    for batch_size, steps in ((5000, 1), (1437, 1), (1000, 2), (64, 23)):
        trainer = Trainer(recipe, ODEOptions(layers=2, channels=1, device="cpu", batch_size=batch_size))
        assert trainer.steps_per_epoch == steps
        seen = []
        record = trainer.run_epoch(seen.append)
        assert len(seen) == steps
        assert math.isfinite(record["test_loss"])
