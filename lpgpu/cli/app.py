"""Reads the command line, runs the command, and turns what went wrong into one line and an exit code."""

import os
import signal
import sys
from collections.abc import Sequence

import lpgpu
from lpgpu.cli import benching, comparing, completion, info, plotting, trained, training, tuning
from lpgpu.cli.parser import Parser, await_turn
from lpgpu.cli.streams import mend_streams
from lpgpu.comm.launcher import end_the_job, launched_rank
from lpgpu.data import DataError
from lpgpu.train import InputError, TrainingDivergedError
from lpgpu.train.reports.console import tell

EXIT_FAILED, EXIT_USAGE = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` are the words after `lpgpu`, by default those of the process.

    Returns the exit code: 0; 1 when training diverged; 2 for a user's error; 128 + the number of the signal that
    interrupted it (130: Ctrl-C). The last three print one line to stderr. Bugs keep their traceback.
    """
    mend_streams()
    arguments = _parser().parse(argv)
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
        number = getattr(interrupt, "signal", signal.SIGINT)
        by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        return _fail(128 + number, "; ".join([f"interrupted{by}", *map(str, interrupt.args)]))
    return 0


def _parser() -> Parser:
    parser = Parser(prog="lpgpu", description="Train deep networks layer-parallel, with multigrid.")
    parser.add_argument("--version", action="version", version=f"lpgpu {lpgpu.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (training, tuning, comparing, plotting, trained, benching, info, completion):
        command.add_command(commands)
    parser.set_defaults(root=parser)
    return parser


def _fail(code: int, message: str) -> int:
    await_turn()
    where = f" rank {rank}:" if (rank := launched_rank()) else ""
    text = f"lpgpu:{where} {' '.join(message.split())}"
    tell(text)
    end_the_job(code, text)
    return code
