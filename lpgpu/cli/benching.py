"""`lpgpu bench [SUITE]`: the benchmarks of the source checkout. They are not part of an installed package."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import lpgpu
from lpgpu.train import InputError

SUITES = {
    "solver": "MGRIT against serial PyTorch, forward + backward",
    "kernels": "every fused kernel over the shapes that matter (needs a GPU; or --estimates H100)",
    "explain": "what bounds each fused kernel, by its machine code, beside what was measured; needs no GPU",
    "scaling": "one and two ranks on a CPU",
    "model": "times on 1 … 1024 GPUs, modelled",
}


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `bench`; what follows the suite's name goes to its script."""
    parser = commands.add_parser(
        "bench",
        help="measure (in a source checkout)",
        description="\n".join(f"{name}: {summary}" for name, summary in SUITES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="`lpgpu bench SUITE --help` lists the options of a suite.",
    )
    parser.add_argument("suite", metavar="SUITE", nargs="?", choices=SUITES, default="solver", help="[solver]")
    parser.add_argument("--explain", nargs=argparse.REMAINDER, metavar="OPTION", help="short for: bench explain ...")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="options of the suite")
    parser.set_defaults(command=_bench, parser=parser)


def _bench(arguments: argparse.Namespace) -> None:
    if arguments.explain is not None:
        arguments.suite, arguments.options = "explain", arguments.explain
    root = Path(lpgpu.__file__).resolve().parents[1]
    script = root / "bench" / f"{arguments.suite}.py"
    if not script.exists():
        raise InputError(f"{script} does not exist: benchmarks run in a source checkout of lpgpu (git clone)")
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    done = subprocess.run([sys.executable, str(script), *arguments.options], env=os.environ | {"PYTHONPATH": path})
    if done.returncode:
        sys.exit(done.returncode)
