"""Training from the first epoch, or from a checkpoint, to the summary."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from shlex import quote
from typing import Any

from lpgpu import MGRIT, Serial
from lpgpu.data import DataError
from lpgpu.nn.weights_file import library
from lpgpu.train.loop.interruption import Interruption
from lpgpu.train.loop.levels import deepest_level, refined, trainer_of_level
from lpgpu.train.loop.progress import Progress
from lpgpu.train.loop.tensorboard import tensorboard
from lpgpu.train.loop.timeline import check_timeline, recorded_step
from lpgpu.train.loop.trainer import Trainer
from lpgpu.train.methods.solvers import reduction_per_cycle, residual_histories
from lpgpu.train.reports.console import tell
from lpgpu.train.reports.plots import draw_plots
from lpgpu.train.runs.atomic import remove_leftovers
from lpgpu.train.runs.checkpoint import checkpoint_level, load_checkpoint, save_checkpoint
from lpgpu.train.runs.metrics import (
    Record,
    RunningMean,
    append_record,
    keep_epochs,
    mean_history,
    read_records,
    total_seconds,
)
from lpgpu.train.runs.run import Run
from lpgpu.train.setup.errors import InputError, TrainingDivergedError, TrainingInterrupted
from lpgpu.train.setup.threads import computing_with
from lpgpu.train.setup.words import counted


def train(run: Run) -> Record:
    """Train `run` to its last epoch, from its checkpoint if it has one, and return the summary.

    After every epoch the measurements and the checkpoint are on the disk, between them as many checkpoints as
    `checkpoint_every` asks for; an interruption loses what came after the last one.

    >>> from dataclasses import replace
    >>> from pathlib import Path
    >>> from lpgpu.train import find_recipe
    >>> recipe = find_recipe("peaks")
    >>> options = replace(recipe.defaults, epochs=1, layers=4, levels=2, device="cpu", run_dir=Path("peaks"))
    >>> summary = train(Run.create(recipe, options))
    >>> 0 <= summary["test_accuracy"] <= 1
    True

    Raises:
        InputError: the checkpoint is damaged, of another network, or beyond the last epoch; another process trains
            this run; its folder can no longer be written to; options that exclude each other or need a package that is
            missing, and then a new run's folder is gone again.
        DataError: the recipe's data cannot be made; a new run's folder is gone again.
        TrainingDivergedError: the loss is no longer finite; the checkpoint is an earlier one.
        TrainingInterrupted: after SIGTERM, SIGHUP or Ctrl-C, on any rank; the checkpoint is of that moment.
    """
    _check_packages(run)
    with run.locked(), computing_with(run.options.threads), Interruption(run.ranks) as interruption:
        trainer = _trainer(run)
        _run_epochs(run, trainer, interruption)
        while trainer.level > 0:
            trainer = refined(trainer, run.recipe, run.options)
            _save(run, trainer)
            _run_epochs(run, trainer, interruption)
        if run.ranks.is_root:
            tell(f"{run.recipe.name}: all epochs are done; testing")
        summary = _summary(run, trainer)
        if run.ranks.is_root:
            with _writing(run):
                append_record(run.metrics, summary)
                draw_plots(run.folder)
    return summary


def _trainer(run: Run) -> Trainer:
    """Ready for the next batch: with the state of the last checkpoint, or of a new run, which is its first one."""
    if not run.ranks.from_root(lambda: _has_checkpoint(run)):
        try:
            trainer = trainer_of_level(run.recipe, run.options, deepest_level(run.options))
            check_timeline(run, trainer)
        except (InputError, DataError):
            run.abandon()
            raise
        _save(run, trainer)
        return trainer
    trainer = trainer_of_level(run.recipe, run.options, checkpoint_level(run.checkpoint))
    load_checkpoint(run.checkpoint, trainer)
    check_timeline(run, trainer)
    if trainer.epoch > trainer.options.epochs:
        raise InputError(
            f"epochs is {run.options.epochs}, but {run.folder} has finished {trainer.epoch}; expected at least that"
        )
    if run.ranks.is_root:
        keep_epochs(run.metrics, trainer.epoch, trainer.level)
        if trainer.level == 0 and trainer.epoch == trainer.options.epochs:
            command = f"lpgpu train {run.recipe.name} --resume {quote(str(run.folder))} --epochs N"
            tell(
                f"{run.folder} has finished its {counted(trainer.epoch, 'epoch')}: nothing is left to train; to go on, "
                f"with an N above {trainer.epoch}: {command}"
            )
    return trainer


def _check_packages(run: Run) -> None:
    """Raise `InputError` where the options need a package that is missing."""
    try:
        if run.weights is not None:
            library()
    except ImportError as error:
        run.abandon()
        raise InputError(f"safetensors is on, but {error}") from error


def _has_checkpoint(run: Run) -> bool:
    for path in (run.checkpoint, run.weights):
        if path is not None:
            remove_leftovers(path)
    return run.checkpoint.exists()


def _run_epochs(run: Run, trainer: Trainer, interruption: Interruption) -> None:
    every, is_root = run.options.checkpoint_every, run.ranks.is_root
    trainer.between_batches = interruption.check
    trainer.around_step = partial(recorded_step, run, trainer)
    name = run.recipe.name + (f", level {trainer.level}" if trainer.level else "")
    with (
        Progress(name, trainer) if is_root else nullcontext() as progress,
        tensorboard(run.folder, trainer) if is_root else nullcontext(_ignore) as log,
    ):

        def on_step(running: RunningMean) -> None:
            if progress is not None:
                progress.batch(running)
            if every and trainer.measures.batches % every == 0:
                trainer.check_finite()
                _save(run, trainer)

        while trainer.epoch < trainer.options.epochs:
            try:
                record = trainer.run_epoch(on_step)
            except TrainingInterrupted:
                trainer.check_finite()
                _save(run, trainer)
                raise
            if progress is not None:
                with _writing(run):
                    append_record(run.metrics, record)
                progress.epoch(record)
            log(record)
            _save(run, trainer)
            interruption.check()


def _ignore(_: object) -> None:
    """What ranks other than the root do with what there is to show."""


def _save(run: Run, trainer: Trainer) -> None:
    config = {"recipe": run.recipe.name, "options": run.options.to_json()}
    with _writing(run):
        save_checkpoint(run.checkpoint, trainer, config, write=run.ranks.is_root, weights=run.weights)


@contextmanager
def _writing(run: Run) -> Iterator[None]:
    """Say in a line that the disk is full, or the folder gone."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{run.folder} cannot be written to any more ({error}); what is there is whole, and --resume continues it"
        ) from error


def _with_mgrit(run: Run, trainer: Trainer, figure: float) -> float | None:
    """The metric on the test set with the run's MGRIT, whatever trained it; None where states do not stay finite.

    It is `figure` where MGRIT is what the network was tested with.
    """
    if run.options.solver != "serial" and isinstance(trainer.problem.propagated[0].solver, MGRIT):
        return figure
    try:
        return trainer.evaluate_with(run.options.mgrit())[1]
    except TrainingDivergedError:
        return None


def _summary(run: Run, trainer: Trainer) -> dict[str, Any]:
    metric = trainer.problem.metric
    _, figure = trainer.evaluate()
    _, exact = trainer.evaluate_with(Serial())
    forward, adjoint = residual_histories(trainer.problem, *trainer.first_batch())
    records = read_records(run.metrics) if run.ranks.is_root else []
    seconds = total_seconds(records)
    for part, spent in trainer.problem.seconds.items():
        seconds[part] = seconds.get(part, 0.0) + spent
    return {
        "kind": "summary",
        "recipe": run.recipe.name,
        "epochs": trainer.epoch,
        f"test_{metric.key}": figure,
        f"test_{metric.key}_serial": exact,
        f"test_{metric.key}_parallel": _with_mgrit(run, trainer, figure),
        "forward_residuals": mean_history([forward]),
        "adjoint_residuals": mean_history([adjoint]),
        "forward_reduction": reduction_per_cycle(forward),
        "adjoint_reduction": reduction_per_cycle(adjoint),
        "work_units": sum(record["work_units"] for record in records),
        "seconds": seconds,
        **metric.to_record(),
    }
