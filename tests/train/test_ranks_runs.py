"""Runs of recipes on several ranks: the figures of one process, written by one of them. Run by test_on_ranks.py."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lpgpu.nn.gradients import network_dot
from lpgpu.train import Comparison, InputError, Run, find_recipe, train
from lpgpu.train.loop.trainer import Trainer
from lpgpu.train.reports.timeline import OUTSIDE, WAITS, read_timeline, segments, spans
from lpgpu.train.runs.metrics import epoch_records, read_records
from lpgpu.train.setup.ranks import ranks_of
from tests.assertions import assert_close_relative
from tests.nn.ranks import RANK, SIZE, allgather
from tests.train.helpers import network_of, tiny_run

pytestmark = [pytest.mark.mpi(2, 3, 4), pytest.mark.usefixtures("no_plots")]
PENALTIES = {"smoothness": 1e-3, "tikhonov": 1e-4, "clip": 0.5}
SEARCHES = {
    "lbfgs": {"layers": 9, "batch_size": 5000, "epochs": 3, "optimizer": "lbfgs", "learning_rate": 1.0},
    "lbfgs, data": {"batch_size": 5000, "optimizer": "lbfgs", "learning_rate": 1.0, "data_ranks": SIZE},
    "mgopt": {"layers": 9, "batch_size": 5000, "mgopt": 2, "optimizer": "sgd", "learning_rate": 0.1},
    "mgopt, data": {"batch_size": 5000, "mgopt": 1, "data_ranks": 2 if SIZE == 4 else SIZE},
}
PLATEAU = {
    "scheduler": "ReduceLROnPlateau",
    "scheduler_options": "patience=0,factor=0.5,threshold=0.02",
    "scheduler_every": "batch",
    "batch_size": 20,
    "epochs": 1,
}
PROBES = {"probe_every": 2, "coarsening": 2, "levels": 3, "iterations": 3, "adjoint_iterations": 3}


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder of the root's that all ranks know."""
    return allgather(tmp_path)[0]


@contextmanager
def one_process() -> Iterator[None]:
    """Within the context this process trains on its own, as if no launcher had started it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lpgpu.train.setup.ranks._world", lambda: None)
        ranks_of.cache_clear()
        yield
    ranks_of.cache_clear()


def assert_same_runs(came: Run, expected: Run) -> None:
    """fp32 sums in another order, and nothing more: after a few steps."""
    allgather(None)
    for one, other in zip(*(epoch_records(read_records(run.metrics)) for run in (came, expected)), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        assert one["test_loss"] == pytest.approx(other["test_loss"], rel=1e-3)
        assert one["learning_rate"] == pytest.approx(other["learning_rate"])
        assert len(one["decisions"]) == len(other["decisions"])
        for decision, of_one in zip(one["decisions"], other["decisions"], strict=True):
            assert decision == pytest.approx(of_one, rel=2e-2)  # of a bias, the difference of two gradients
    weights, of_one = network_of(came), network_of(expected)
    for name in of_one:
        assert_close_relative(weights[name], of_one[name], name, tolerance=5e-3)


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("digits", {"layers": 9, **PENALTIES}),
        ("digits", {"layers": 9, "data_ranks": 2 if SIZE == 4 else SIZE, **PENALTIES}),
        ("seq-digits", {"iterations": 3, "adjoint_iterations": 3}),
        ("digits", {"layers": 9, "nested": 2, "nested_epochs": 1, "transfer": "linear", **PENALTIES}),
        ("digits", {"data_ranks": 2 if SIZE == 4 else SIZE, **PLATEAU}),
        ("digits", {"layers": 9, "control": "adaptive", **PROBES}),
        (
            "digits",
            {"layers": 9, "control": "bias-budget", "bias_bound": 0.02, **PROBES, "data_ranks": 2 if SIZE == 4 else 1},
        ),
        ("digits", {"layers": 9, "control": "adaptive", **PROBES, "data_ranks": 2 if SIZE == 4 else SIZE}),
        *(("peaks", {**options, "smoothness": 1e-2, "tikhonov": 1e-2}) for options in SEARCHES.values()),
    ],
    ids=["layers", "data", "time steps", "nested", "plateau", "adaptive", "bias budget", "adaptive, data", *SEARCHES],
)
def test_any_number_of_ranks_trains_the_same_network(
    recipe: str, options: dict[str, Any], shared: Path, tmp_path: Path
) -> None:
    run = tiny_run(shared / "of many", recipe, **options)
    summary = train(run)
    assert all(each == summary["test_accuracy"] for each in allgather(summary["test_accuracy"]))
    with one_process():
        alone = tiny_run(tmp_path / "of one", recipe, **{**options, "data_ranks": 1})
        train(alone)
    assert_same_runs(run, alone)


def test_a_run_goes_on_on_another_number_of_ranks(shared: Path, tmp_path: Path) -> None:
    train(tiny_run(shared / "run", epochs=1, data_ranks=2 if SIZE == 4 else 1))
    allgather(None)
    train(Run.resume(shared / "run", {"epochs": 2, "data_ranks": 1}))
    with one_process():
        alone = tiny_run(tmp_path / "of one", epochs=2)
        train(alone)
    assert_same_runs(Run.resume(shared / "run", {"epochs": 2}), alone)


def test_the_root_alone_writes(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    for name in ("append_record", "atomic_write"):
        for room in ("loop.training", "runs.run", "runs.checkpoint"):
            _count_calls(monkeypatch, f"lpgpu.train.{room}", name, written)
    train(tiny_run(shared / "run", epochs=1))
    assert bool(written) == (RANK == 0)


def test_what_fails_on_the_root_fails_everywhere(shared: Path) -> None:
    if RANK == 0:
        (shared / "something").touch()
    allgather(None)
    with pytest.raises(InputError, match="is not empty"):
        tiny_run(shared)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layer_ranks": 7}, f"but there are {SIZE} ranks"),
        ({"data_ranks": 5}, f"but there are {SIZE} ranks"),
        ({"layers": 1}, f"{SIZE} ranks cannot share 1 layer "),
    ],
)
def test_what_several_ranks_cannot_do_is_refused_by_all(options: dict[str, Any], says: str, shared: Path) -> None:
    with pytest.raises(InputError, match=says):
        train(tiny_run(shared / "run", **options))
    allgather(None)


def test_a_comparison_is_refused(shared: Path) -> None:
    recipe = find_recipe("digits")
    comparison = Comparison.create(recipe, replace(recipe.defaults, run_dir=shared / "all"), [0])
    with pytest.raises(InputError, match="a comparison is for one process"):
        comparison.run()


def test_examples_are_shared_out_once_each() -> None:
    ranks = ranks_of(0, SIZE)
    for count in (1, 2, 7, 12):
        mine, weight = ranks.shard(torch.arange(count))
        shards = allgather((mine.tolist(), weight))
        counted = sorted(example for examples, weight in shards if weight for example in examples)
        assert counted == list(range(count))
        assert sum(weight for _, weight in shards) == pytest.approx(SIZE)


@pytest.mark.parametrize("data_ranks", [1, SIZE])
def test_a_probe_is_of_the_whole_network_on_the_whole_batch(data_ranks: int) -> None:
    recipe = find_recipe("digits")
    options = replace(recipe.defaults, layers=8, channels=2, device="cpu", tikhonov=1e-3, data_ranks=data_ranks)
    trainer = Trainer(recipe, options)
    chosen = torch.arange(2 * SIZE + 1)  # no even share
    mine, weight = trainer.ranks.shard(chosen)
    probe = trainer.gradient_with(options.mgrit(), *examples(trainer, mine), weight)
    norm = trainer._norm(probe.gradient)
    with one_process():
        alone = Trainer(recipe, replace(options, data_ranks=1))
        expected = alone.gradient_with(options.mgrit(), *examples(alone, chosen))
        assert norm == pytest.approx(alone._norm(expected.gradient), rel=1e-4)
    assert probe.forward == pytest.approx(expected.forward, rel=1e-4)
    assert allgather((norm, probe.forward)) == [(norm, probe.forward)] * SIZE
    if data_ranks == 1:  # a mean loss over the shares scales the adjoint states
        assert probe.adjoint == pytest.approx(expected.adjoint, rel=1e-4)


@pytest.mark.parametrize("data_ranks", [1, SIZE])
def test_a_line_search_sees_the_objective_of_the_whole_network(data_ranks: int) -> None:
    recipe = find_recipe("digits")
    penalties = {"tikhonov": 0.1, "smoothness": 0.2, "mgopt": 1}
    options = replace(recipe.defaults, layers=8, channels=2, device="cpu", data_ranks=data_ranks, **penalties)
    trainer = Trainer(recipe, options)
    chosen = torch.arange(2 * SIZE + 1)
    mine, weight = trainer.ranks.shard(chosen)
    value = trainer.objective.closure(*examples(trainer, mine), weight=weight)(trainer.network)
    theta = list(trainer.network.parameters())
    dot = network_dot(trainer.network, theta, [each + 1 for each in theta])
    with one_process():
        alone = Trainer(recipe, replace(options, data_ranks=1))
        expected = alone.objective.closure(*examples(alone, chosen))(alone.network)
        of_all = list(alone.network.parameters())
        assert float(value) == pytest.approx(float(expected), rel=1e-5)
        assert float(dot) == pytest.approx(sum(float((x * (x + 1)).sum()) for x in of_all), rel=1e-5)
    assert allgather((float(value), float(dot))) == [(float(value), float(dot))] * SIZE


def examples(trainer: Trainer, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels of some training examples."""
    return trainer.data.train_inputs[chosen], trainer.data.train_labels[chosen]


def _count_calls(monkeypatch: pytest.MonkeyPatch, module: str, name: str, calls: list[str]) -> None:
    """Where `module` has `name`, note each call."""
    import importlib

    holder = importlib.import_module(module)
    original: Callable[..., Any] | None = getattr(holder, name, None)
    if original is not None:
        monkeypatch.setattr(holder, name, lambda *args, **kw: calls.append(name) or original(*args, **kw))


def test_a_step_shows_who_computes_and_who_waits(shared: Path) -> None:
    """And recording it changes nothing. Data ranks beside layer ranks where there are four."""
    options = {"epochs": 1, "data_ranks": 2 if SIZE == 4 else 1}
    plain, run = tiny_run(shared / "plain", **options), tiny_run(shared / "run", timeline=2, **options)
    for each in (plain, run):
        train(each)
    allgather(None)
    assert all(torch.equal(value, network_of(plain)[name]) for name, value in network_of(run).items())
    timeline = read_timeline(run.folder)
    assert timeline["step"] == 2 and not (plain.folder / "timeline.json").exists()
    places = [(rank["data_rank"], rank["layer_rank"]) for rank in timeline["ranks"]]
    assert places == [divmod(rank, 2) if SIZE == 4 else (0, rank) for rank in range(SIZE)]
    for rank in timeline["ranks"]:
        assert [len(spans(rank["events"], name)) for name in ("train step", "forward solve", "adjoint solve")] == [
            1
        ] * 3
        assert {kind for *_, kind in segments(rank["events"])} >= {"layers of level 0", OUTSIDE, WAITS}
