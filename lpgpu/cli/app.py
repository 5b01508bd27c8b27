"""Reads the command line, runs the command, and turns what went wrong into one line and an exit code."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lpgpu.cli import benching, comparing, info, training
from lpgpu.data import DataError
from lpgpu.train import InputError, TrainingDivergedError, draw_plots, draw_runs
from lpgpu.train.setup.ranks import launched_rank

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` are the words after `lpgpu`, by default those of the process.

    Returns the exit code: 0; 1 when training diverged; 2 for a user's error; 130 when interrupted. The last three print
    one line to stderr. Bugs keep their traceback.
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.command(arguments)
        sys.stdout.flush()
    except (InputError, DataError) as error:
        return _fail(EXIT_USAGE, f"error: {error}")
    except TrainingDivergedError as error:
        return _fail(EXIT_FAILED, f"error: training diverged: {error}")
    except BrokenPipeError:  # whoever read the output has had enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt as interrupt:
        return _fail(EXIT_INTERRUPTED, "; ".join(["interrupted", *map(str, interrupt.args)]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lpgpu", description="Train deep networks layer-parallel, with multigrid.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    training.add_command(commands)
    comparing.add_command(commands)
    benching.add_command(commands)
    about = commands.add_parser("info", help="versions, devices, and which kernels would run")
    about.set_defaults(command=lambda _: info.show())
    plot = commands.add_parser("plot", help="draw the plots of a run again, finished or not, or compare several")
    plot.add_argument(
        "runs", metavar="RUN", type=Path, nargs="+", help="folder of a run; of several, one plot is drawn"
    )
    plot.add_argument(
        "--output", metavar="FILE", type=Path, default=Path("runs.png"), help="of several runs: a new file [runs.png]"
    )
    plot.set_defaults(command=_plot)
    return parser


def _plot(arguments: argparse.Namespace) -> None:
    one, *others = arguments.runs
    drawn = [draw_runs(arguments.runs, arguments.output)] if others else draw_plots(one)
    print(*drawn, sep="\n")


def _fail(code: int, message: str) -> int:
    where = f" rank {rank}:" if (rank := launched_rank()) else ""
    print(f"lpgpu:{where} {' '.join(message.split())}", file=sys.stderr)
    return code
