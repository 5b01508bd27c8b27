"""Training with --solver auto: tuned at the start, and again where a probe misses the aim."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lpgpu import MGRIT, Serial
from lpgpu.nn.tune import search
from lpgpu.train import InputError, TrainingDivergedError, train
from lpgpu.train.loop import trainer as trainer_module
from lpgpu.train.loop.trainer import Trainer
from lpgpu.train.methods.control import Moment
from lpgpu.train.methods.control_choice import control_of
from lpgpu.train.methods.solvers import Probe
from lpgpu.train.methods.tuned import Tuned
from lpgpu.train.runs.metrics import epoch_records, read_records
from tests.train.helpers import tiny_run

START, FOUND = MGRIT(), MGRIT(levels=2, coarsening=2, relaxation=("F",))
AUTO: dict[str, Any] = {"solver": "auto", "tune_by": "depth", "tune_tries": 4, "gradient_error": 0.05}


def moment(step: int, found: MGRIT | Serial, error: float, asked: list[str]) -> Moment:
    """Whose inexact gradient is off by `error`, and whose batch is tuned to `found`."""

    def probe(solver: MGRIT | Serial) -> Probe:
        asked.append("exact" if solver == Serial() else "inexact")
        return Probe((torch.tensor([2.0 if solver == Serial() else 2.0 + 2 * error]),), [], [])

    def tune() -> MGRIT | Serial:
        asked.append("tune")
        return found

    return Moment(step=step, steps=100, learning_rate=0.1, probe=probe, tune=tune)


def test_tunes_first_then_only_where_the_aim_is_missed():
    control, asked = Tuned(START, every=10, gradient_error=1e-2), []
    assert control.solver == START
    first = control.before_step(moment(0, FOUND, 0.0, asked))
    assert asked == ["tune"] and control.solver == FOUND
    assert first == {"step": 0, "solver": "MGRIT(levels=2, coarsening=2, relaxation=('F',))"}
    assert control.before_step(moment(7, START, 1.0, asked)) is None and control.solver == FOUND
    held = control.before_step(moment(10, START, 0.009, asked))
    assert asked == ["tune", "exact", "inexact"] and control.solver == FOUND
    assert held is not None and held["gradient_error"] == pytest.approx(0.009, rel=1e-4)
    missed = control.before_step(moment(20, START, 0.02, asked))
    assert asked[3:] == ["exact", "inexact", "tune"] and control.solver == START
    assert missed is not None and missed["gradient_error_before"] == pytest.approx(0.02, rel=1e-4)


def test_exact_propagation_is_tuned_again_at_every_probe():
    control, asked = Tuned(START, every=10, gradient_error=1e-2), []
    control.before_step(moment(0, Serial(), 0.0, asked))
    assert control.solver == Serial()
    control.before_step(moment(10, FOUND, 0.0, asked))
    assert control.solver == FOUND and asked == ["tune", "tune"]


def test_a_gradient_that_is_not_a_number_misses_the_aim():
    control, asked = Tuned(START, every=1, gradient_error=1e-2), []
    control.before_step(moment(0, FOUND, 0.0, asked))
    control.before_step(moment(1, START, float("nan"), asked))
    assert asked[-1] == "tune"


@pytest.mark.parametrize("found", [FOUND, Serial()])
def test_what_was_found_survives_a_checkpoint(found: MGRIT | Serial, tmp_path: Path):
    control = Tuned(START, every=10, gradient_error=1e-2)
    control.before_step(moment(0, found, 0.0, []))
    torch.save(control.state_dict(), tmp_path / "state.pt")
    resumed = Tuned(START, every=10, gradient_error=1e-2)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.solver == found


def test_training_takes_what_was_found_and_records_it(tmp_path: Path, no_plots: None):
    run = tiny_run(tmp_path / "run", epochs=2, probe_every=3, **AUTO)
    summary = train(run)
    records = epoch_records(read_records(run.metrics))
    decisions = [decision for record in records for decision in record["decisions"]]
    assert [decision["step"] for decision in decisions] == [0, 3, 6]
    assert all(decision.get("gradient_error", 0) <= 0.05 for decision in decisions)
    assert summary["test_accuracy_parallel"] is not None
    trainer = Trainer(run.recipe, run.options)
    state = torch.load(run.checkpoint, weights_only=True)
    trainer.load_state_dict({name: state[name] for name in trainer.state_dict()})
    assert trainer.problem.propagated[0].solver == trainer.control.solver


def test_a_step_without_a_gradient_is_diverged_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = tiny_run(tmp_path / "run", **AUTO)
    trainer = Trainer(run.recipe, run.options)

    def refuse(*_: Any, **options: Any) -> None:
        raise ValueError("exact propagation gives states or gradients that are not finite")

    monkeypatch.setattr(trainer_module, "search", refuse)
    with pytest.raises(TrainingDivergedError, match="not finite"):
        trainer.run_epoch(lambda _: None)


def test_every_rank_of_the_job_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Data ranks average gradients in every step, so that they have to try the same solvers."""
    seen: list[Any] = []

    def watched(*arguments: Any, communicator: Any, **options: Any) -> Any:
        seen.append(communicator)
        return search(*arguments, communicator=communicator, **options)

    monkeypatch.setattr(trainer_module, "search", watched)
    run = tiny_run(tmp_path / "run", **AUTO)
    trainer = Trainer(run.recipe, run.options)
    trainer.tuned(*trainer.first_batch())
    assert seen == [run.ranks.grid.communicator]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"control": "adaptive"}, "--solver auto is a control of its own"),
        ({"gradient_error": 0.0}, "gradient_error is 0"),
        ({"tune_tries": 0}, "tune_tries is 0"),
        ({"tune_by": "memory"}, "tune_by is 'memory'"),
    ],
)
def test_bad_options(options: dict[str, Any], says: str, tmp_path: Path):
    with pytest.raises(InputError, match=says):
        run = tiny_run(tmp_path / "run", **{**AUTO, **options})
        control_of(run.options, run.options.layer_solver())
