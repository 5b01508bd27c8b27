"""Records one training step of a run, on every rank: who computes what, and who waits, when."""

import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lpgpu.profiling import Event, recorded
from lpgpu.train.loop.trainer import Trainer
from lpgpu.train.reports.timeline import TIMELINE
from lpgpu.train.runs.atomic import atomic_write
from lpgpu.train.runs.run import Run
from lpgpu.train.setup.errors import InputError


def check_timeline(run: Run, trainer: Trainer) -> None:
    """Raise `InputError` where the step that `timeline` names does not come any more, or on a GPU.

    There launches return at once, and the host's clock does not say who computes.
    """
    step, last = run.options.timeline, run.options.epochs * trainer.steps_per_epoch
    if not step or run.ranks.from_root((run.folder / TIMELINE).exists):
        return
    if trainer.device.type != "cpu":
        raise InputError(f"timeline is {step}, but this run is on {trainer.device}: see docs/profiling.md for Nsight")
    first = 1 if trainer.level else _next_step(trainer)
    if not first <= step <= last:
        raise InputError(
            f"timeline is {step}, but the steps of this run that are still to come are {first} … {last}; 0: none"
        )


@contextmanager
def recorded_step(run: Run, trainer: Trainer) -> Iterator[None]:
    """The context of a training step: if it is the one that `timeline` names, leaves `timeline.json` in the folder.

    Of networks of nested iteration, the finest counts. All ranks begin the step together, and on several machines,
    whose clocks differ, their times count from there.

    Raises `InputError` where it cannot be written.
    """
    step = _next_step(trainer)
    if step != run.options.timeline or trainer.level > 0:
        yield
        return
    communicator = run.ranks.grid.communicator
    communicator.allgather(None)
    began = time.perf_counter()
    with recorded() as events:
        yield
    ranks = communicator.allgather((platform.node(), began, _of_rank(trainer, events)))
    if run.ranks.is_root:
        timeline = {"step": step, "ranks": _on_one_clock(ranks)}
        try:
            with atomic_write(run.folder / TIMELINE) as file:
                file.write(json.dumps(timeline).encode() + b"\n")
        except OSError as error:
            raise InputError(f"{run.folder / TIMELINE} cannot be written: {error}") from error


def _next_step(trainer: Trainer) -> int:
    """The number of the step that comes next, from 1."""
    return trainer.epoch * trainer.steps_per_epoch + trainer.measures.batches + 1


def _of_rank(trainer: Trainer, events: list[Event]) -> dict[str, Any]:
    grid = trainer.ranks.grid
    return {"layer_rank": grid.layer_rank, "data_rank": grid.data_rank, "events": events}


def _on_one_clock(ranks: list[tuple[str, float, dict[str, Any]]]) -> list[dict[str, Any]]:
    """All ranks' events, in seconds since the first rank began. One machine has one clock."""
    machines = {machine for machine, _, _ in ranks}
    first = min(began for _, began, _ in ranks)
    return [
        {
            **rank,
            "events": [[round(at - (first if len(machines) == 1 else began), 7), name] for at, name in rank["events"]],
        }
        for _, began, rank in ranks
    ]
