"""Training runs: what they leave behind, and that an interruption changes nothing."""

import dataclasses
import json
import math
import sys
import types
from pathlib import Path

import pytest
import torch

from lpgpu import GRU, MGRIT, LayerParallel, Serial
from lpgpu.data import load_digits
from lpgpu.nn import ConvBlock
from lpgpu.profiling import Timings
from lpgpu.train import InputError, ODEOptions, Run, TrainingDivergedError, draw_plots, find_recipe, train
from lpgpu.train.loop.batches import Batches
from lpgpu.train.loop.trainer import Trainer
from lpgpu.train.runs.metrics import read_records
from tests.train.helpers import InterruptAtStep, network_of, tiny_run, without_seconds

PNG = b"\x89PNG\r\n\x1a\n"


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
def test_a_finished_run_says_that_nothing_is_left(tmp_path: Path, capsys: pytest.CaptureFixture):
    run = tiny_run(tmp_path / "a run", epochs=1)
    train(run)
    assert "nothing is left" not in capsys.readouterr().err
    train(Run.resume(run.folder, {}))
    err = capsys.readouterr().err
    assert f"{run.folder} has finished its 1 epoch: nothing is left to train; to go on, with an N above 1: " in err
    assert f": lpgpu train digits --resume '{run.folder}' --epochs N\n" in err
    train(Run.resume(run.folder, {"epochs": 2}))
    assert "nothing is left" not in capsys.readouterr().err


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
@pytest.mark.parametrize(("learning_rate", "every"), [(1e12, 0), (1e38, 0), (1e38, 1)])
@pytest.mark.usefixtures("no_plots")
def test_diverging_training_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path, learning_rate: float, every: int):
    run = tiny_run(tmp_path / "run", epochs=3, optimizer="sgd", learning_rate=learning_rate, checkpoint_every=every)
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


@pytest.mark.usefixtures("no_plots")
def test_amp_trains_in_bf16_around_layers_that_keep_their_precision(tmp_path: Path):
    run = tiny_run(tmp_path / "run", epochs=1, amp=True, batch_size=100)
    trainer = Trainer(run.recipe, run.options)
    seen: dict[str, set[torch.dtype]] = {"head": set(), "layers": set()}
    _, layers, head = trainer.network  # pyright: ignore[reportGeneralTypeIssues]
    layers.register_forward_hook(lambda module, inputs, out: seen["layers"].add(out.dtype))
    head.register_forward_hook(lambda module, inputs, out: seen["head"].add(out.dtype))
    record = trainer.run_epoch(lambda _: None)
    assert seen == {"head": {torch.bfloat16}, "layers": {torch.float32}}
    assert all(theta.dtype == torch.float32 for theta in trainer.network.parameters())
    plain = Trainer(run.recipe, dataclasses.replace(run.options, amp=False)).run_epoch(lambda _: None)
    assert record["train_loss"] != plain["train_loss"]
    assert record["train_loss"] == pytest.approx(plain["train_loss"], rel=0.05)


def test_under_autocast_layers_with_kernels_compute_in_their_own_precision():
    net, x = LayerParallel(None, lambda: ConvBlock(2), 8, 1.0), torch.randn(3, 2, 4, 4).bfloat16()
    expected = net(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        came = net(x)
    assert came.dtype == torch.float32 and torch.equal(came, expected)
    for part, input in ((net, x), (GRU(3, 4), torch.randn(16, 2, 3))):
        with torch.autocast("cpu", torch.bfloat16), pytest.raises((ValueError, RuntimeError), match="float64"):
            part(input.double())  # not of autocast's making


def test_lbfgs_is_full_batch_and_goes_down():
    options = ODEOptions(layers=4, channels=3, device="cpu", batch_size=10, optimizer="lbfgs", learning_rate=1.0)
    trainer = Trainer(find_recipe("peaks"), options)
    assert trainer.steps_per_epoch == 1
    records = [trainer.run_epoch(lambda _: None) for _ in range(4)]
    losses = [record["train_loss"] for record in records]
    assert losses == sorted(losses, reverse=True)
    assert all(record["work_units"] >= 1 for record in records)


def test_clipping_bounds_the_step():
    options = ODEOptions(
        layers=4, channels=3, device="cpu", batch_size=5000, optimizer="sgd", learning_rate=1.0, clip=1e-3, momentum=0.0
    )
    trainer = Trainer(find_recipe("peaks"), options)
    before = [theta.detach().clone() for theta in trainer.network.parameters()]
    trainer.run_epoch(lambda _: None)
    moved = torch.cat([(a - b).flatten() for a, b in zip(trainer.network.parameters(), before, strict=True)])
    assert torch.linalg.vector_norm(moved).item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.usefixtures("no_plots")
def test_tensorboard_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int):
            assert folder == str(tmp_path / "run" / "tensorboard" / "training") and purge_step == 1

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def flush(self) -> None: ...

        def close(self) -> None: ...

    package = types.ModuleType("torch.utils.tensorboard")
    package.SummaryWriter = SummaryWriter  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", package)
    run = tiny_run(tmp_path / "run")
    train(run)
    first = read_records(run.metrics)[0]
    assert ("train_loss", first["train_loss"], 1) in written and (
        "seconds/forward",
        first["seconds"]["forward"],
        1,
    ) in written
    assert {step for _, _, step in written} == {1, 2}


def test_order_of_examples_follows_from_seed_and_epoch_alone():
    data, timings = load_digits(), Timings(torch.device("cpu"))
    batches = [Batches(data, ODEOptions(device="cpu", seed=seed)) for seed in (0, 1)]

    def order(seed: int, epoch: int, done: int = 0) -> list[int]:
        return torch.cat([labels for _, labels, _ in batches[seed].of_epoch(epoch, done, timings)]).tolist()

    first = order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (1, 0)}) == 4
    torch.rand(3)
    assert order(0, 0) == first
    assert order(0, 0, done=3) == first[3 * batches[0].size :]
