"""Plots of a run, finished or not, from its metrics alone."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from lpgpu.train.reports.figures import baseline, legend_beside, logarithmic, new_figure, save, shades, title_of
from lpgpu.train.reports.timeline import TIMELINE, rank_timeline, read_timeline
from lpgpu.train.runs.metrics import Record, read_records
from lpgpu.train.setup.errors import InputError
from lpgpu.train.setup.metric import Metric
from lpgpu.train.setup.words import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS = "metrics.jsonl"
PARTS = ("disk", "data", "encoder", "forward", "backward", "communication", "optimizer", "evaluation")
SOLVES = ("forward", "adjoint")


def draw_plots(folder: Path) -> list[Path]:
    """Draw `curves.png`, `residuals.png` and `timing.png` into the folder of a run and return their paths.

    Where a step was recorded, `timeline.png` as well.

    >>> from dataclasses import replace
    >>> from lpgpu.train import Run, find_recipe, train
    >>> recipe = find_recipe("peaks")
    >>> options = replace(recipe.defaults, epochs=1, layers=4, levels=2, device="cpu", run_dir=Path("peaks"))
    >>> summary = train(Run.create(recipe, options))
    >>> [path.name for path in draw_plots(Path("peaks"))]
    ['curves.png', 'residuals.png', 'timing.png']

    Raises `InputError` when it is not the folder of a run, one without a finished epoch, or one that cannot be written.
    """
    records, title = records_of(folder), title_of(folder)
    drawn = [save(draw(records, title), folder / f"{name}.png") for name, draw in FIGURES.items()]
    if (folder / TIMELINE).exists():
        drawn.append(save(rank_timeline(read_timeline(folder), title), folder / "timeline.png"))
    return drawn


def records_of(folder: Path) -> list[Record]:
    """The records of a run, of which an epoch is finished. Raises `InputError` where it is no such run."""
    records = read_records(folder / METRICS)
    if not epochs_of(records):
        raise InputError(f"{folder / METRICS} holds no finished epoch: there is nothing to plot yet")
    return records


def epochs_of(records: Sequence[Record]) -> list[Record]:
    """The records of epochs, those of coarser networks, which were trained first, too."""
    return [record for record in records if record["kind"] in ("nested", "epoch")]


def curves(records: Sequence[Record], title: str) -> "Figure":
    """Loss and metric by epoch, over all levels of nested iteration; one panel where they are the same."""
    epochs = epochs_of(records)
    metric = Metric.from_record(epochs[0])
    quantities = {metric.key: metric.axis} if metric.is_loss else {"loss": "loss", metric.key: metric.axis}
    figure, axes = new_figure(len(quantities), title=title)
    for axis, (quantity, label) in zip(axes, quantities.items(), strict=True):
        names = [f"{part}_{quantity}" for part in ("train", "test")]
        for name in names:
            values = [record[name] for record in epochs]
            axis.plot(range(1, len(epochs) + 1), values, label=name.partition("_")[0], marker=".")
        axis.set(xlabel="epoch", ylabel=label)
        if quantity == metric.key:
            baseline(axis, metric)
        if quantity == "loss" or metric.is_loss:
            logarithmic(axis, [record[name] for record in epochs for name in names])
        _mark_levels(axis, epochs)
    legend_beside(axes[-1])
    return figure


def residuals(records: Sequence[Record], title: str) -> "Figure":
    """Residuals before each cycle, a line for each epoch, and a row of panels for each level that has any."""
    levels = [
        level for level in _levels(records) if any(_history(r, s) for r in _of_level(records, level) for s in SOLVES)
    ]
    figure, axes = new_figure(2, max(1, len(levels)), title)
    for row, level in enumerate(levels or [0]):
        for axis, solve in zip(axes[2 * row : 2 * row + 2], SOLVES, strict=True):
            _residuals_of_level(axis, _of_level(records, level), solve)
            where = f", coarser network of level {level}" if level else ""
            axis.set(title=f"{solve} solve{where}", xlabel="cycles done", ylabel="residual at the C-points")
            axis.title.set_fontsize("medium")
        legend_beside(axes[2 * row + 1])
    return figure


def timing(records: Sequence[Record], title: str) -> "Figure":
    """Seconds of each epoch, part upon part."""
    figure, (axis,) = new_figure(1, title=title)
    epochs = epochs_of(records)
    stacked_bars(axis, [str(i + 1) for i in range(len(epochs))], [record["seconds"] for record in epochs])
    axis.set(xlabel="epoch", ylabel="seconds")
    _mark_levels(axis, epochs, first=-0.5)
    return figure


FIGURES = {"curves": curves, "residuals": residuals, "timing": timing}


def stacked_bars(axis: "Axes", names: list[str], seconds: list[dict[str, float]]) -> None:
    """A bar for each of `names`, its parts in the order in which a training step takes them."""
    others = dict.fromkeys(part for each in seconds for part in each if part not in PARTS)
    bottom = [0.0] * len(names)
    for part in (*PARTS, *others):
        heights = [each.get(part, 0.0) for each in seconds]
        if any(heights):
            axis.bar(range(len(names)), heights, bottom=bottom, label=part, width=0.8)
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    shown = range(0, len(names), max(1, math.ceil(len(names) / 10)))
    axis.set_xticks(list(shown), [names[i] for i in shown])
    legend_beside(axis)


def _residuals_of_level(axis: "Axes", records: Sequence[Record], solve: str) -> None:
    """Epochs from dark to bright; dashed, the longer solve after the last one. An exact 0 lies below all others."""
    epochs = [record for record in epochs_of(records) if _history(record, solve)]
    norms = [norm for record in records for norm in _history(record, solve) if norm is not None]
    floor = min(filter(None, norms), default=1.0) / 10
    for record, colour in zip(epochs, shades(len(epochs)), strict=True):
        named = record["epoch"] in (epochs[0]["epoch"], epochs[-1]["epoch"])
        label = f"epoch {record['epoch']}" if named else None
        _history_line(axis, _history(record, solve), floor, color=colour, label=label)
    for record in records:
        if record["kind"] == "summary" and _history(record, solve):
            _history_line(
                axis, _history(record, solve), floor, color="black", ls="--", label="after training, one\ncycle more"
            )
    logarithmic(axis, [norm or floor for norm in norms])


def _history_line(axis: "Axes", norms: Sequence[float | None], floor: float, **style: object) -> None:
    """A residual history; where it is exactly 0, an open triangle at the `floor`."""
    axis.plot([math.nan if norm is None else norm or floor for norm in norms], marker=".", **style)  # pyright: ignore
    zeros = [cycle for cycle, norm in enumerate(norms) if norm == 0]
    if zeros:
        known = axis.get_legend_handles_labels()[1]
        label = "0, exactly" if "0, exactly" not in known else None
        axis.plot(zeros, [floor] * len(zeros), "v", color="black", fillstyle="none", label=label)


def _history(record: Record, solve: str) -> list[float | None]:
    return record.get(f"{solve}_residuals", [])


def _level(record: Record) -> int:
    return record.get("level", 0)


def _levels(records: Sequence[Record]) -> list[int]:
    """Coarsest first, as they were trained."""
    return list(dict.fromkeys(_level(record) for record in epochs_of(records)))


def _of_level(records: Sequence[Record], level: int) -> list[Record]:
    return [record for record in records if _level(record) == level]


def _mark_levels(axis: "Axes", epochs: Sequence[Record], first: float = 0.5) -> None:
    """A line between the epochs of two levels, and what lies left of it."""
    for number, (before, after) in enumerate(pairwise(epochs), start=1):
        if _level(before) != _level(after):
            axis.axvline(first + number, color="grey", ls=":", lw=1)
            text, place = f"{counted(_level(before), 'level')} coarser", (first + number, 0.98)
            style = {"ha": "right", "va": "top", "rotation": 90, "fontsize": "x-small", "color": "grey"}
            axis.annotate(text, place, xycoords=("data", "axes fraction"), **style)
