"""Training from the first epoch, or from a checkpoint, to the summary."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tqdm import tqdm

from lpgpu import Serial
from lpgpu.train.checkpoint import load_checkpoint, save_checkpoint
from lpgpu.train.errors import InputError, TrainingDivergedError
from lpgpu.train.metrics import (
    Record,
    RunningMean,
    append_record,
    keep_epochs,
    mean_history,
    read_records,
    total_seconds,
)
from lpgpu.train.plots import draw_plots
from lpgpu.train.run import Run
from lpgpu.train.solvers import reduction_per_cycle, residual_histories
from lpgpu.train.trainer import Trainer

REFRESH = 0.25  # seconds between looks at the loss, each of which waits for the device


def train(run: Run) -> Record:
    """Train `run` to its last epoch, from its checkpoint if it has one, and return the summary.

    After every epoch the measurements and the checkpoint are on the disk; an interruption loses the epoch under way.

    Raises:
        InputError: the checkpoint is damaged, of another network, or beyond the last epoch.
        TrainingDivergedError: the loss is no longer finite; the checkpoint is that of the epoch before.
    """
    with _threads(run.options.threads):
        trainer = _trainer(run)
        _run_epochs(run, trainer)
        summary = _summary(run, trainer)
    append_record(run.metrics, summary)
    draw_plots(run.folder)
    return summary


def _trainer(run: Run) -> Trainer:
    """Ready for the next epoch: with the state of the last checkpoint, or of a new run, which is its first one."""
    trainer = Trainer(run.recipe, run.options)
    if run.checkpoint.exists():
        load_checkpoint(run.checkpoint, trainer)
        if trainer.epoch > run.options.epochs:
            raise InputError(
                f"epochs is {run.options.epochs}, but {run.folder} has finished {trainer.epoch}; expected at least that"
            )
        keep_epochs(run.metrics, trainer.epoch)
    else:
        _save(run, trainer)
    return trainer


def _run_epochs(run: Run, trainer: Trainer) -> None:
    steps = trainer.steps_per_epoch
    with tqdm(
        desc=run.recipe.name,
        total=run.options.epochs * steps,
        initial=trainer.epoch * steps,
        unit="batch",
        dynamic_ncols=True,
    ) as bar:
        progress = _Progress(bar, trainer)
        while trainer.epoch < run.options.epochs:
            record = trainer.run_epoch(progress)
            append_record(run.metrics, record)
            _save(run, trainer)


class _Progress:
    """Moves the bar with every batch, and now and then shows the epoch's mean loss and accuracy so far."""

    def __init__(self, bar: tqdm, trainer: Trainer):
        self.bar, self.trainer = bar, trainer
        self.due = time.monotonic()

    def __call__(self, running: RunningMean) -> None:
        if time.monotonic() >= self.due:
            loss, accuracy = running.values()
            self.bar.set_postfix_str(
                f"epoch {self.trainer.epoch + 1}, loss {loss:.3f}, acc {accuracy:.1%}", refresh=False
            )
            self.due = time.monotonic() + REFRESH
        self.bar.update()


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Compute with so many CPU threads inside the `with` statement; 0 changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _save(run: Run, trainer: Trainer) -> None:
    save_checkpoint(run.checkpoint, trainer, {"recipe": run.recipe.name, "options": run.options.to_json()})


def _parallel_accuracy(run: Run, trainer: Trainer, accuracy: float) -> float | None:
    """Test accuracy with the run's MGRIT, whatever trained it; None where the states do not stay finite.

    It is `accuracy` where MGRIT is what the network was tested with.
    """
    if run.options.solver == "mgrit":
        return accuracy
    try:
        return trainer.evaluate_with(run.options.mgrit())[1]
    except TrainingDivergedError:
        return None


def _summary(run: Run, trainer: Trainer) -> dict[str, Any]:
    _, accuracy = trainer.evaluate()
    _, accuracy_serial = trainer.evaluate_with(Serial())
    forward, adjoint = residual_histories(trainer.problem, *trainer.first_batch())
    return {
        "kind": "summary",
        "recipe": run.recipe.name,
        "epochs": trainer.epoch,
        "test_accuracy": accuracy,
        "test_accuracy_serial": accuracy_serial,
        "test_accuracy_parallel": _parallel_accuracy(run, trainer, accuracy),
        "forward_residuals": mean_history([forward]),
        "adjoint_residuals": mean_history([adjoint]),
        "forward_reduction": reduction_per_cycle(forward),
        "adjoint_reduction": reduction_per_cycle(adjoint),
        "seconds": total_seconds(read_records(run.metrics)),
    }
