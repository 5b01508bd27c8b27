"""The table and the plot of a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from lpgpu.train.reports.figures import baseline, legend_beside, logarithmic, new_figure, save
from lpgpu.train.runs.metrics import Record, epoch_records, total_seconds
from lpgpu.train.setup.metric import ACCURACY, Metric

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

    @property
    def metric(self) -> Metric:
        """By what the run is measured."""
        return Metric.from_record(self.records[0] if self.records else {})

    def reached(self, inference: str) -> float | None:
        """The test metric with "serial" or "parallel" inference; None: not finished, or states not finite."""
        return None if self.summary is None else self.summary[f"test_{self.metric.key}_{inference}"]

    @property
    def seconds_per_epoch(self) -> float:
        """Wall time of training and testing."""
        return sum(total_seconds(self.epochs).values()) / len(self.epochs)


def format_table(outcomes: Sequence[Outcome], seeds: Sequence[int]) -> str:
    """The test metric: a row for each variant and kind of inference, mean ± sample standard deviation.

    A dash stands for a run that is not finished, or whose states did not stay finite. Accuracies are in percent; what
    another metric is, a line above the table says.
    """
    metric = metric_of(outcomes)
    lines = [
        *([] if metric == ACCURACY else [f"Test {metric.axis}{metric.baseline_words}".replace("\n", " "), ""]),
        "| training | inference | mean ± std | " + " | ".join(f"seed {seed}" for seed in seeds) + " | s/epoch |",
        "|---" * (4 + len(seeds)) + "|",
    ]
    for variant in dict.fromkeys(outcome.variant for outcome in outcomes):
        runs = [outcome for outcome in outcomes if outcome.variant == variant]
        finished = [run.seconds_per_epoch for run in runs if run.summary is not None]
        for inference in INFERENCES:
            reached = [run.reached(inference) for run in runs]
            cells = [variant, inference, _mean(metric, reached), *(_text(metric, figure) for figure in reached)]
            cells.append(f"{fmean(finished):.1f}" if finished else "–")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw_comparison(outcomes: Sequence[Outcome], path: Path) -> None:
    """The test metric by epoch, pale for each seed, dark their mean; and at the end, with both kinds of inference."""
    figure, (curves, final) = new_figure(2)
    metric = metric_of(outcomes)
    variants = list(dict.fromkeys(outcome.variant for outcome in outcomes))
    for place, variant in enumerate(variants):
        runs, colour = [outcome for outcome in outcomes if outcome.variant == variant], f"C{place}"
        histories = [[record[f"test_{metric.key}"] for record in run.epochs] for run in runs]
        for history in histories:
            curves.plot(range(1, len(history) + 1), history, color=colour, alpha=0.3)
        mean = [fmean(figures) for figures in zip(*histories, strict=False)]
        curves.plot(range(1, len(mean) + 1), mean, color=colour, marker=".", label=variant)
        for offset, inference in enumerate(INFERENCES):
            reached = [value for run in runs if (value := run.reached(inference)) is not None]
            inside = "none" if inference == "parallel" else colour
            final.scatter([place + 0.2 * offset - 0.1] * len(reached), reached, edgecolors=colour, facecolors=inside)
    curves.set(xlabel="epoch", ylabel=f"test {metric.name}, with the training solver")
    final.set(xticks=range(len(variants)), ylabel=f"test {metric.axis} at the end")
    for axis in (curves, final):
        baseline(axis, metric)
        if not metric.percent:
            logarithmic(axis, [record[f"test_{metric.key}"] for run in outcomes for record in run.epochs])
    legend_beside(curves)
    final.set_xticklabels(variants)
    final.set_title("full: serial inference, hollow: parallel", fontsize="medium")
    save(figure, path)


def metric_of(outcomes: Sequence[Outcome]) -> Metric:
    """By what the runs of a comparison are measured: all by the same, those without a record by what is not known."""
    return next((outcome.metric for outcome in outcomes if outcome.records), ACCURACY)


def _text(metric: Metric, figure: float | None) -> str:
    return "–" if figure is None else metric.text(figure)


def _mean(metric: Metric, figures: Sequence[float | None]) -> str:
    """Mean ± sample standard deviation of those there are."""
    there = [figure for figure in figures if figure is not None]
    if not there:
        return "–"
    return metric.text(fmean(there)) + (f" ± {metric.spread(stdev(there))}" if len(there) > 1 else "")
