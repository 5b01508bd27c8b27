"""Several runs in one file: a picture, or a page of HTML that needs no other file."""

import base64
import html
import io
import math
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from lpgpu.train.reports.figures import baseline, logarithmic, new_figure, save, title_of
from lpgpu.train.reports.plots import FIGURES, epochs_of, records_of, stacked_bars
from lpgpu.train.reports.space_time import VERIFICATION, read_verification, space_time
from lpgpu.train.reports.timeline import TIMELINE, rank_timeline, read_timeline
from lpgpu.train.runs.atomic import atomic_write
from lpgpu.train.runs.metrics import Record, epoch_records, total_seconds
from lpgpu.train.setup.errors import InputError
from lpgpu.train.setup.metric import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGES = (".html", ".htm")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1200px; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .3em .8em; text-align: right }
th { border-bottom: 2px solid #888 } td:first-child, th:first-child { text-align: left }
tr:nth-child(even) { background: #f4f4f4 } img { max-width: 100% } h2 { margin-top: 2em } code { color: #555 }
"""


def draw_runs(folders: Sequence[Path], path: Path) -> Path:
    """Draw runs side by side into a new file: a picture, or where its name ends in .html a page with all plots.

    >>> draw_runs([Path("nowhere")], Path("runs.html"))
    Traceback (most recent call last):
        ...
    lpgpu.train.setup.errors.InputError: nowhere/metrics.jsonl does not exist; expected the folder of a run, ...

    Raises `InputError` when one is not the folder of a run with a finished epoch, runs are measured by different
    metrics, or `path` exists, cannot be written, or ends in what is no format.
    """
    if path.exists():
        raise InputError(f"{path} exists, and was not touched; choose another --output")
    runs = {folder: records_of(folder) for folder in folders}
    _check_metrics(runs)
    figure = compare(runs)
    if path.suffix.lower() not in PAGES:
        return save(figure, path)
    try:
        with atomic_write(path) as file:
            file.write(_page(runs, figure).encode())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def _check_metrics(runs: dict[Path, list[Record]]) -> None:
    """Raise `InputError` where no axis, and no column, could hold what the runs have reached."""
    names = {folder: _metric(records).name for folder, records in runs.items()}
    if len(set(names.values())) > 1:
        each = ", ".join(f"{folder} by {name}" for folder, name in names.items())
        raise InputError(f"the runs are measured differently: {each}; draw those of one metric together")


def _metric(records: list[Record]) -> Metric:
    return Metric.from_record(records[0])


def compare(runs: dict[Path, list[Record]]) -> "Figure":
    """The test metric by epoch and by work, residuals, and seconds, of all runs, which have the same metric."""
    metric = _metric(next(iter(runs.values())))
    figure, (by_epoch, by_work, residuals, timing) = new_figure(2, 2, f"test {metric.name}, convergence and time")
    lasts: list[float | None] = []
    reached: list[float] = []
    for folder, records in runs.items():
        label, epochs = f"{folder.name}: {title_of(folder)}", epoch_records(records)
        if not epochs:
            continue
        figures = [record[f"test_{metric.key}"] for record in epochs]
        reached += figures
        numbers = [record["epoch"] for record in epochs]
        before = sum(record.get("work_units", 0.0) for record in records if record["kind"] == "nested")
        work = list(accumulate((record.get("work_units", 0.0) for record in epochs), initial=before))[1:]
        by_epoch.plot(numbers, figures, marker=".", label=label)
        by_work.plot(work, figures, marker=".", label=label)
        last = [(record["forward_residuals"] or [None])[-1] for record in epochs]
        residuals.plot(numbers, [math.nan if norm is None else norm for norm in last], marker=".", label=label)
        lasts += last
    stacked_bars(timing, [folder.name for folder in runs], [total_seconds(records) for records in runs.values()])
    for axis, xlabel in ((by_epoch, "epoch"), (by_work, "work: gradients of the whole network")):
        axis.set(xlabel=xlabel, ylabel=f"test {metric.axis}")
        baseline(axis, metric)
        if not metric.percent:
            logarithmic(axis, reached)
    residuals.set(xlabel="epoch", ylabel="forward residual before the last cycle")
    logarithmic(residuals, lasts)
    timing.set(ylabel="seconds, all epochs")
    timing.tick_params(axis="x", rotation=20)
    handles, labels = by_epoch.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", frameon=False, fontsize="small")
    return figure


def _page(runs: dict[Path, list[Record]], figure: "Figure") -> str:
    """All of it as one page."""
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>lpgpu: {len(runs)} runs</title>"
    parts = [head, "<meta name=viewport content='width=device-width'>", f"<style>{STYLE}</style>", "<h1>Runs</h1>"]
    name = _metric(next(iter(runs.values()))).name
    parts += [_table(runs), _image(figure, f"test {name}, convergence and time of all runs")]
    for folder, records in runs.items():
        title = title_of(folder)
        parts.append(
            f"<h2>{html.escape(folder.name)}</h2><p>{html.escape(title)} <code>{html.escape(str(folder))}</code>"
        )
        parts += [_image(draw(records, ""), f"{name} of {folder.name}") for name, draw in FIGURES.items()]
        if (folder / VERIFICATION).exists():
            parts.append(_image(space_time(read_verification(folder), ""), f"space-time picture of {folder.name}"))
        if (folder / TIMELINE).exists():
            parts.append(_image(rank_timeline(read_timeline(folder), ""), f"ranks of {folder.name} in one step"))
    return "\n".join([*parts, "</html>\n"])


def _table(runs: dict[Path, list[Record]]) -> str:
    metric = _metric(next(iter(runs.values())))
    test = f"test_{metric.key}"
    columns = ("run", "recipe, solver, seed", "epochs", f"test {metric.name}", "exact inference", "work", "seconds")
    rows = ["".join(f"<th>{name}</th>" for name in columns)]
    for folder, records in runs.items():
        epochs, summary = epochs_of(records), next((r for r in records if r["kind"] == "summary"), None)
        reached, exact = metric.text(epochs[-1][test]), "not finished"
        if summary is not None:
            reached, exact = metric.text(summary[test]), metric.text(summary[f"{test}_serial"])
        work, seconds = sum(r.get("work_units", 0.0) for r in epochs), sum(total_seconds(records).values())
        cells = [folder.name, title_of(folder), len(epochs), reached, exact, f"{work:.0f}", f"{seconds:.1f}"]
        rows.append("".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells))
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def _image(figure: "Figure", text: str) -> str:
    """A figure inside the page."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<p><img alt="{html.escape(text)}" src="data:image/png;base64,{data}">'
