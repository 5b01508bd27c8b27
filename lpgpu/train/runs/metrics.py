"""What a run measures, and `metrics.jsonl`, where it is kept: a JSON object per epoch, at the end one summary.

Epochs of the coarser networks of nested iteration come first, with `"kind": "nested"` and their level.
"""

import json
import math
import os
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from lpgpu.train.runs.atomic import atomic_write
from lpgpu.train.setup.errors import InputError, TrainingDivergedError
from lpgpu.train.setup.metric import ACCURACY, Metric
from lpgpu.train.setup.ranks import Ranks

Record = dict[str, Any]


def mean_history(histories: Iterable[Sequence[float]]) -> list[float | None]:
    """Mean residual history over many solves: the i-th mean is over those that made an i-th cycle.

    None stands for a mean that is not finite, which JSON could not hold.
    """
    cycles = zip_longest(*histories)
    means = (fmean(norm for norm in norms if norm is not None) for norms in cycles)
    return [mean if math.isfinite(mean) else None for mean in means]


class RunningMean:
    """Loss and metric, averaged over `examples`; kept on the device, so that adding never waits for it."""

    def __init__(self, device: torch.device, metric: Metric = ACCURACY):
        if metric.of is None:
            raise ValueError(f"the metric {metric.name} has no function `of`, as one that is read from a record")
        self.metric, self._of = metric, metric.of
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._figure = torch.zeros((), dtype=torch.float64, device=device)
        self.examples = 0

    def add(self, loss: Tensor, scores: Tensor, labels: Tensor) -> None:
        """Count in a batch: its mean loss, and scores `[batch, ...]` and labels `[batch, ...]`, for the metric.

        Raises ValueError where the metric is no figure of each example.
        """
        figures = self._of(scores.detach(), labels)
        if figures.shape != labels.shape[:1]:
            raise ValueError(
                f"the metric {self.metric.name} of {len(labels)} examples has the shape {tuple(figures.shape)}; "
                f"expected one figure for each, ({len(labels)},)"
            )
        self._loss += loss.detach().double() * len(labels)
        self._figure += figures.sum(dtype=torch.float64)
        self.examples += len(labels)

    def values(self) -> tuple[float, float]:
        """(loss, metric), such as an accuracy in 0 … 1. Raises `TrainingDivergedError` where one is not finite."""
        loss, figure = self._loss.item() / self.examples, self._figure.item() / self.examples
        for name, value in (("loss", loss), (self.metric.name, figure)):
            if not math.isfinite(value):
                raise TrainingDivergedError(
                    f"the {name} is {value}: try a smaller --learning-rate or more --iterations"
                )
        return loss, figure

    def over(self, ranks: Ranks) -> "RunningMean":
        """That of all data ranks together. Collective."""
        if ranks.grid.data_ranks == 1:
            return self
        mean = RunningMean(self._loss.device, self.metric)
        mean._loss, mean._figure = ranks.sum_over_data(self._loss), ranks.sum_over_data(self._figure)
        mean.examples = int(ranks.sum_over_data(torch.tensor(self.examples)))
        return mean

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, for a checkpoint, which calls the metric's "correct", after that of a classification."""
        return {"loss": self._loss.item(), "correct": self._figure.item(), "examples": self.examples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from these sums."""
        self._loss.fill_(state["loss"])
        self._figure.fill_(state["correct"])
        self.examples = state["examples"]


def append_record(path: Path, record: Record) -> None:
    """Add one line to `path`, and see it to the disk."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_records(path: Path) -> list[Record]:
    """All records of a run, finished or not; a last line that was cut off in the middle of writing is left out.

    Raises `InputError` when there is no such file, or when another line is no record.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; expected the folder of a run, as `lpgpu train` writes it") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}; expected the folder of a run") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is damaged: {error}") from error
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise InputError(f"line {number} of {path} is no JSON: {error}") from error
            continue
        if not isinstance(records[-1], dict) or "kind" not in records[-1]:
            raise InputError(f"line {number} of {path} is no record of a run: {line[:80]}")
    return records


def epoch_records(records: Sequence[Record]) -> list[Record]:
    """The records of epochs of the network itself, without those of coarser ones and without the summary."""
    return [record for record in records if record["kind"] == "epoch"]


def keep_epochs(path: Path, last: int, level: int = 0) -> None:
    """Drop from `path`, atomically, all that is later than epoch `last` of `level`: a resumed run repeats none of it.

    Level 0 is the network itself; nested iteration trains deeper levels, the coarser networks, before it.
    """
    if not path.exists():
        return
    done = [record for record in read_records(path) if record["kind"] != "summary"]
    kept = [r for r in done if (r.get("level", 0), -r["epoch"]) >= (level, -last)]
    with atomic_write(path) as file:
        file.writelines(json.dumps(record).encode() + b"\n" for record in kept)


def total_seconds(records: Sequence[Record]) -> dict[str, float]:
    """Seconds of each part, summed over the epochs, those of coarser networks too."""
    totals: dict[str, float] = {}
    for record in records:
        for part, seconds in record["seconds"].items() if record["kind"] != "summary" else ():
            totals[part] = totals.get(part, 0.0) + seconds
    return totals
