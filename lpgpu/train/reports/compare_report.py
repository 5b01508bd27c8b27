"""The table and the plot of a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from lpgpu.train.reports.figures import legend_beside, new_figure, save
from lpgpu.train.runs.metrics import Record, epoch_records, total_seconds

INFERENCES = ("serial", "parallel")


@dataclass(frozen=True)
class Outcome:
    """The records of one run of a comparison, finished or not."""

    variant: str
    seed: int
    records: tuple[Record, ...]

    @property
    def epochs(self) -> list[Record]:
        """The records of finished epochs."""
        return epoch_records(self.records)

    @property
    def summary(self) -> Record | None:
        """The summary, None while the run is not finished."""
        return next((record for record in self.records if record["kind"] == "summary"), None)

    def accuracy(self, inference: str) -> float | None:
        """Test accuracy, 0 … 1, with "serial" or "parallel" inference; None: not finished, or states not finite."""
        return None if self.summary is None else self.summary[f"test_accuracy_{inference}"]

    @property
    def seconds_per_epoch(self) -> float:
        """Wall time of training and testing."""
        return sum(total_seconds(self.epochs).values()) / len(self.epochs)


def format_table(outcomes: Sequence[Outcome], seeds: Sequence[int]) -> str:
    """Test accuracies in percent: a row for each variant and kind of inference, mean ± sample standard deviation.

    A dash stands for a run that is not finished, or whose states did not stay finite.
    """
    lines = [
        "| training | inference | mean ± std | " + " | ".join(f"seed {seed}" for seed in seeds) + " | s/epoch |",
        "|---" * (4 + len(seeds)) + "|",
    ]
    for variant in dict.fromkeys(outcome.variant for outcome in outcomes):
        runs = [outcome for outcome in outcomes if outcome.variant == variant]
        finished = [run.seconds_per_epoch for run in runs if run.summary is not None]
        for inference in INFERENCES:
            accuracies = [run.accuracy(inference) for run in runs]
            cells = [variant, inference, _mean(accuracies), *map(_percent, accuracies)]
            cells.append(f"{fmean(finished):.1f}" if finished else "–")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw_comparison(outcomes: Sequence[Outcome], path: Path) -> None:
    """Test accuracy by epoch, pale for each seed, dark their mean; and at the end, with both kinds of inference."""
    figure, (curves, final) = new_figure(2)
    variants = list(dict.fromkeys(outcome.variant for outcome in outcomes))
    for place, variant in enumerate(variants):
        runs, colour = [outcome for outcome in outcomes if outcome.variant == variant], f"C{place}"
        histories = [[record["test_accuracy"] for record in run.epochs] for run in runs]
        for history in histories:
            curves.plot(range(1, len(history) + 1), history, color=colour, alpha=0.3)
        mean = [fmean(accuracies) for accuracies in zip(*histories, strict=False)]
        curves.plot(range(1, len(mean) + 1), mean, color=colour, marker=".", label=variant)
        for offset, inference in enumerate(INFERENCES):
            reached = [accuracy for run in runs if (accuracy := run.accuracy(inference)) is not None]
            inside = "none" if inference == "parallel" else colour
            final.scatter([place + 0.2 * offset - 0.1] * len(reached), reached, edgecolors=colour, facecolors=inside)
    curves.set(xlabel="epoch", ylabel="test accuracy, with the training solver")
    legend_beside(curves)
    final.set(xticks=range(len(variants)), ylabel="test accuracy at the end")
    final.set_xticklabels(variants)
    final.set_title("full: serial inference, hollow: parallel", fontsize="medium")
    save(figure, path)


def _percent(accuracy: float | None) -> str:
    return "–" if accuracy is None else f"{accuracy:.2%}"


def _mean(accuracies: Sequence[float | None]) -> str:
    """Mean ± sample standard deviation of those there are."""
    there = [accuracy for accuracy in accuracies if accuracy is not None]
    if not there:
        return "–"
    return _percent(fmean(there)) + (f" ± {100 * stdev(there):.2f}" if len(there) > 1 else "")
