"""`lpgpu verify RUN` and `lpgpu export RUN`: what is done with a trained network."""

import argparse
from pathlib import Path

from lpgpu.comm.launcher import launched_rank
from lpgpu.train.after.export import FORMATS, export_run
from lpgpu.train.after.verification import format_verification, verify_run


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `verify` and `export`."""
    verify = commands.add_parser(
        "verify",
        help="how exact a run's solves are: errors of states, output and gradient, cycle by cycle",
        epilog="Leaves verification.json and space-time.png in the run's folder.",
    )
    verify.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    verify.add_argument("--more", metavar="N", type=int, default=2, help="cycles beyond those it was trained with [2]")
    verify.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, … [that of the run]")
    verify.set_defaults(command=_verify, parser=verify)
    export = commands.add_parser("export", help="a run's network as plain PyTorch, exact, without anything of lpgpu")
    export.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    export.add_argument(
        "--output", metavar="FILE", type=Path, help=f"a new file: {', '.join(FORMATS)} [RUN/network.pt2]"
    )
    export.set_defaults(command=_export, parser=export)


def _verify(arguments: argparse.Namespace) -> None:
    if arguments.more < 0:
        arguments.parser.error(f"argument --more: it is {arguments.more}; expected an integer ≥ 0")
    verification = verify_run(arguments.run, more=arguments.more, device=arguments.device)
    if not launched_rank():
        print(format_verification(verification), arguments.run / "space-time.png", sep="\n")


def _export(arguments: argparse.Namespace) -> None:
    print(export_run(arguments.run, arguments.output or arguments.run / "network.pt2"))
