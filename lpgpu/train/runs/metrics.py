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
    """Loss and accuracy, averaged over `examples`; kept on the device, so that adding never waits for it."""

    def __init__(self, device: torch.device):
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._correct = torch.zeros((), dtype=torch.float64, device=device)
        self.examples = 0

    def add(self, loss: Tensor, scores: Tensor, labels: Tensor) -> None:
        """Count in a batch: its mean loss, scores `[batch, classes]` and labels `[batch]`.

        Of several predictions an example, scores `[batch, classes, ...]` and labels `[batch, ...]`, the share of right
        ones counts.
        """
        self._loss += loss.detach().double() * len(labels)
        each = labels[0].numel() if len(labels) else 1
        self._correct += (scores.detach().argmax(dim=1) == labels).sum().double() / each
        self.examples += len(labels)

    def values(self) -> tuple[float, float]:
        """(loss, accuracy in 0 … 1). Raises `TrainingDivergedError` when the loss is not finite."""
        loss = self._loss.item() / self.examples
        if not math.isfinite(loss):
            raise TrainingDivergedError(f"the loss is {loss}: try a smaller --learning-rate or more --iterations")
        return loss, self._correct.item() / self.examples

    def over(self, ranks: Ranks) -> "RunningMean":
        """That of all data ranks together. Collective."""
        if ranks.grid.data_ranks == 1:
            return self
        mean = RunningMean(self._loss.device)
        mean._loss, mean._correct = ranks.sum_over_data(self._loss), ranks.sum_over_data(self._correct)
        mean.examples = int(ranks.sum_over_data(torch.tensor(self.examples)))
        return mean

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, for a checkpoint."""
        return {"loss": self._loss.item(), "correct": self._correct.item(), "examples": self.examples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from these sums."""
        self._loss.fill_(state["loss"])
        self._correct.fill_(state["correct"])
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
