"""What is reported besides the loss: accuracy where nothing else is said, a mean squared error for sums."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lpgpu import LayerParallel
from lpgpu.data import Dataset
from lpgpu.train import Metric, Problem, Recipe, Run, TrainOptions, draw_plots, draw_runs, format_summary, train
from lpgpu.train.after.trained import trained
from lpgpu.train.reports.compare_report import Outcome, draw_comparison, format_table
from lpgpu.train.reports.plots import curves
from lpgpu.train.reports.several import compare
from lpgpu.train.runs.metrics import RunningMean, append_record, read_records
from lpgpu.train.setup.errors import InputError
from lpgpu.train.setup.metric import ACCURACY, MEAN_SQUARED_ERROR, right_answers, squared_error
from tests.train.helpers import InterruptAtStep, tiny_run, without_seconds

SMALL = {"steps": 9, "sequences": 40, "batch_size": 10, "coarsening": 2}
MSE = replace(MEAN_SQUARED_ERROR, baseline=1 / 6, baseline_name="always answering 1")
CPU = torch.device("cpu")


def regression(**changes) -> Problem:
    """Two numbers to be predicted."""
    x, y = torch.randn(6, 2), torch.randn(6, 2)
    data = Dataset(train_inputs=x, train_labels=y, test_inputs=x[:3], test_labels=y[:3])
    network = nn.Sequential(LayerParallel(None, lambda: nn.Linear(2, 2), 4, 1.0))
    return Problem(**{"network": network, "dataset": data, "loss": nn.functional.mse_loss, "metric": MSE, **changes})


def epoch(number: int, metric: Metric = MSE, **changes) -> dict:
    key = metric.key
    of_epoch = {"train_loss": 0.5, "test_loss": 0.5, f"train_{key}": 0.3, f"test_{key}": 0.4 / number}
    solves = {"forward_residuals": [], "adjoint_residuals": [], "seconds": {"forward": 2.0}}
    return {"kind": "epoch", "epoch": number, **of_epoch, **solves, **metric.to_record(), **changes}


def test_accuracy_of_one_and_of_several_answers_an_example() -> None:
    scores = torch.tensor([[[0.0, 1.0], [1.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]])  # of class 1, 0; and twice of class 0
    assert right_answers(scores, torch.tensor([[1, 1], [0, 0]])).tolist() == [0.5, 1.0]
    assert right_answers(scores[..., 0], torch.tensor([1, 1])).tolist() == [1.0, 0.0]
    assert right_answers(scores[:0, :, 0], torch.zeros(0)).tolist() == []


def test_the_squared_error_is_the_mean_over_each_examples_numbers() -> None:
    y = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    assert squared_error(torch.zeros(2, 2), y).tolist() == [2.5, 0.0]
    assert squared_error(torch.tensor([3.0, 0.0]), y[:, 0]).tolist() == [4.0, 0.0]
    with pytest.raises(ValueError, match=r"scores are \(2, 1\), labels \(2,\); expected the same shape"):
        squared_error(torch.zeros(2, 1), torch.zeros(2))


def test_a_mean_over_batches_of_any_size() -> None:
    running = RunningMean(CPU, MSE)
    running.add(torch.tensor(4.0), torch.full((1, 1), 2.0), torch.zeros(1, 1))
    running.add(torch.tensor(0.0), torch.zeros(3, 1), torch.zeros(3, 1))
    assert running.values() == (1.0, 1.0)
    of_batch = RunningMean(CPU, replace(MSE, of=lambda scores, labels: (scores - labels).square().mean()))
    with pytest.raises(ValueError, match=r"of 3 examples has the shape \(\); expected one figure for each, \(3,\)"):
        of_batch.add(torch.tensor(0.0), torch.zeros(3, 1), torch.zeros(3, 1))


def test_a_problem_of_numbers_needs_a_metric_for_them() -> None:
    assert regression().metric is MSE
    with pytest.raises(ValueError, match=r"labels are torch\.float32, .*, but the metric is accuracy"):
        regression(metric=ACCURACY)
    with pytest.raises(ValueError, match="mean squared error has no function"):
        regression(metric=Metric.from_record(epoch(1)))


@pytest.mark.usefixtures("no_plots")
def test_the_adding_problem_reports_its_mean_squared_error(tmp_path: Path) -> None:
    """Which is computed anew here, with exact inference, from the checkpoint."""
    run = tiny_run(tmp_path / "run", "adding", check_serial=True, **SMALL)
    summary = train(run)
    _, trainer = trained(run.folder)
    data, network = trainer.data, trainer.network.gru.to_sequential()
    scores = trainer.network.head(network(data.test_inputs)[1][-1])
    error = (scores.detach() - data.test_labels).double().square().mean().item()
    assert summary["test_mean_squared_error_serial"] == pytest.approx(error, rel=1e-5)
    assert not any("accuracy" in name for record in read_records(run.metrics) for name in record)
    last = read_records(run.metrics)[-2]
    assert last["test_mean_squared_error"] == pytest.approx(last["test_loss"], rel=1e-5)
    assert last["train_mean_squared_error"] == pytest.approx(last["train_loss"], rel=1e-5)
    assert last["test_mean_squared_error_serial"] == summary["test_mean_squared_error_serial"]
    first, exact, *_ = format_summary(run, summary).splitlines()
    assert first == f"test mean squared error  {error:.3g} after 2 epochs; always answering 1: 0.167"
    assert exact.startswith(f"  exact inference        {error:.3g} (")


@pytest.mark.usefixtures("no_plots")
def test_it_is_resumed_within_an_epoch_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = (tiny_run(tmp_path / name, "adding", checkpoint_every=1, **SMALL) for name in ("whole", "broken"))
    train(whole)
    with monkeypatch.context() as patch:
        InterruptAtStep(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            train(broken)
    train(Run.resume(broken.folder, {}))
    came, expected = (list(map(without_seconds, read_records(run.metrics))) for run in (broken, whole))
    assert came == expected


def test_a_recipe_with_a_metric_of_its_own(tmp_path: Path) -> None:
    """Higher is better, a share, and not the loss: all plots and reports know it from the records alone."""

    def near(scores: Tensor, labels: Tensor) -> Tensor:
        return ((scores - labels).abs().amax(1) < 1).double()

    metric = Metric(name="share nearby", short="near", of=near)
    recipe = Recipe(
        name="mine",
        summary="two numbers",
        defaults=TrainOptions(epochs=2, device="cpu", run_dir=tmp_path / "mine"),
        build=lambda options: regression(metric=metric),
    )
    run = Run.create(recipe, recipe.defaults)
    summary = train(run)
    assert summary["test_share_nearby"] in (0, 1 / 3, 2 / 3, 1)
    assert format_summary(run, summary).startswith(f"test share nearby   {summary['test_share_nearby']:.2%} after 2")
    assert [axis.get_ylabel() for axis in curves(read_records(run.metrics), "").axes] == ["loss", "share nearby"]
    assert len(draw_plots(run.folder)) == 3
    assert "<th>test share nearby</th>" in draw_runs([run.folder], tmp_path / "mine.html").read_text()


def test_what_is_the_loss_itself_is_drawn_once_with_the_baseline() -> None:
    (axis,) = curves([epoch(1), epoch(2)], "").axes
    assert axis.get_ylabel() == "mean squared error\n(lower is better)"
    assert axis.get_legend_handles_labels()[1] == ["train", "test", "always answering 1: 0.167"]
    by_epoch, by_work, *_ = compare({Path("run"): [epoch(1), epoch(2)]}).axes
    for panel in (by_epoch, by_work):
        assert panel.get_ylabel() == "test mean squared error\n(lower is better)"
        assert list(panel.lines[0].get_ydata()) == [0.4, 0.2] and panel.lines[1].get_ydata()[0] == 1 / 6


def test_runs_of_different_metrics_are_not_drawn_together(tmp_path: Path) -> None:
    for name, metric in (("one", MSE), ("other", ACCURACY)):
        (tmp_path / name).mkdir()
        append_record(tmp_path / name / "metrics.jsonl", epoch(1, metric))
    with pytest.raises(InputError, match=r"measured differently: .*one by mean squared error, .*other by accuracy"):
        draw_runs([tmp_path / "one", tmp_path / "other"], tmp_path / "both.png")
    assert not (tmp_path / "both.png").exists()


def test_the_table_and_the_picture_of_a_comparison(tmp_path: Path) -> None:
    def outcome(seed: int, error: float) -> Outcome:
        reached = {"test_mean_squared_error_serial": error, "test_mean_squared_error_parallel": None}
        return Outcome("serial", seed, (epoch(1), {"kind": "summary", **reached, **MSE.to_record()}))

    outcomes = [outcome(0, 0.012345), outcome(1, 0.1), Outcome("mgrit", 0, ())]
    lines = format_table(outcomes, [0, 1]).splitlines()
    assert lines[0] == "Test mean squared error (lower is better); always answering 1: 0.167"
    assert lines[4] == "| serial | serial | 0.0562 ± 0.062 | 0.0123 | 0.1 | 2.0 |"
    assert lines[5] == "| serial | parallel | – | – | – | 2.0 |"
    draw_comparison(outcomes[:2], tmp_path / "comparison.png")
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
