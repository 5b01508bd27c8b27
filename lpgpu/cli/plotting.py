"""`lpgpu plot RUN [RUN …]`: the plots of a run again, or several runs in one file."""

import argparse
from pathlib import Path

from lpgpu.train import draw_plots, draw_runs


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `plot`."""
    parser = commands.add_parser("plot", help="draw the plots of a run again, finished or not, or compare several")
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="folder of a run")
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="a new file for all runs: .html (a page with all plots, in one file), .png, .svg, .pdf; [of one run, "
        "pictures in its own folder; of several, runs.html]",
    )
    parser.set_defaults(command=_plot, parser=parser)


def _plot(arguments: argparse.Namespace) -> None:
    one, *others = arguments.runs
    if arguments.output is None and not others:
        drawn = draw_plots(one)
    else:
        drawn = [draw_runs(arguments.runs, arguments.output or Path("runs.html"))]
    print(*drawn, sep="\n")
