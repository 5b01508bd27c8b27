"""The summary of a run, for people."""

from lpgpu.train.runs.metrics import Record
from lpgpu.train.runs.run import Run
from lpgpu.train.setup.metric import Metric
from lpgpu.train.setup.words import counted


def format_summary(run: Run, summary: Record) -> str:
    """A few lines: the metric, also under exact inference; convergence of the solver; where the time went; the folder.

    >>> from dataclasses import replace
    >>> from pathlib import Path
    >>> from lpgpu.train import find_recipe, train
    >>> recipe = find_recipe("peaks")
    >>> options = replace(recipe.defaults, epochs=1, layers=4, levels=2, device="cpu", run_dir=Path("peaks"))
    >>> run = Run.create(recipe, options)
    >>> print(format_summary(run, train(run)))
    test accuracy       ...% after 1 epoch
    ...
    run folder          peaks
    """
    seconds = summary["seconds"]
    total = sum(seconds.values())
    parts = ", ".join(f"{part} {spent:.1f} s ({spent / total:.0%})" for part, spent in seconds.items())
    options = run.options
    if options.solver == "mgrit":
        levels = options.mgrit().coarsening_per_level
        coarsening = ", ".join(map(str, levels if len(set(levels)) > 1 else levels[:1]))
        solver = f"MGRIT, m = {coarsening}, up to {counted(options.levels, 'level')}, "
        solver += f"{options.iterations} forward / {options.adjoint_iterations} adjoint cycles"
        solver += "" if options.control == "fixed" else f" to start with, then {options.control}"
    else:
        solver = "serial" if options.solver == "serial" else f"tuned to a gradient error of {options.gradient_error:g}"
    metric = Metric.from_record(summary)
    test, exact = (metric.text(summary[f"test_{metric.key}{of}"]) for of in ("", "_serial"))
    lines = {
        f"test {metric.name}": f"{test} after {counted(summary['epochs'], 'epoch')}{metric.baseline_words}",
        "  exact inference": f"{exact} (step after step, nothing iterative)",
        "solver": f"{options.network}, {solver}",
        "residual per cycle": f"forward {_factor(summary['forward_reduction'])}, "
        f"adjoint {_factor(summary['adjoint_reduction'])}",
        "time": f"{total:.1f} s: {parts}",
        "run folder": str(run.folder),
    }
    width = max(20, 2 + max(map(len, lines)))
    return "\n".join(f"{name:<{width}}{text}" for name, text in lines.items())


def _factor(reduction: float | None) -> str:
    return "–" if reduction is None else f"× {reduction:.1e}"
