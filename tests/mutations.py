"""Plants deliberate faults into copies of the package, and demands that the tests notice: python -m tests.mutations

Every fault is an exact replacement of source text; where that text is no longer found, the fault is to be written anew.
The same tests must pass on a copy without a fault. Exit status 0: all is as demanded.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

SUBSET = [
    "tests/mgrit/test_exactness.py::test_exactness_travels_with_the_cycles",
    "tests/mgrit/test_exactness.py::test_enough_cycles_are_serial_propagation",
    "tests/mgrit/test_exactness.py::test_one_cycle_too_few_is_not_exact",
    "tests/mgrit/test_ranks.py::test_any_ranks_compute_what_one_process_does",
    "tests/mgrit/test_ranks.py::test_ranks_of_one_layer_each",
    "tests/nn/test_exactness.py::test_without_cycles_the_coarse_guess_is_the_coarsest_network",
    "tests/nn/test_exactness.py::test_the_adjoint_is_linearised_where_the_forward_solve_ended",
]


@dataclass(frozen=True)
class Fault:
    """`file` with `right` replaced by `wrong`."""

    file: str
    right: str
    wrong: str

    def plant(self, copy: Path) -> None:
        """Replace the text in a copy of the repository.

        Raises:
            LookupError: when the text is not there.
        """
        path = copy / self.file
        source = path.read_text()
        if self.right not in source:
            raise LookupError(f"{self.file} no longer contains {self.right!r}: write this fault anew")
        path.write_text(source.replace(self.right, self.wrong))


FAULTS = {
    "residual sign": Fault(
        "lpgpu/mgrit/fas.py",
        "fas.restrict_(coarse_phi, phi, ",
        "fas.restrict_(coarse_phi, 2 * u - phi, ",
    ),
    "a missed C-point": Fault(
        "lpgpu/mgrit/fas.py",
        "    u[:here] = v[:here]",
        "    u[: here - 1] = v[: here - 1]",
    ),
    "a wrong coarse Δt": Fault(
        "lpgpu/nn/propagators/layers.py",
        "coarse.dt = m * self.dt",
        "coarse.dt = self.dt",
    ),
    "an adjoint linearised one point off": Fault(
        "lpgpu/nn/propagators/fine_states.py",
        "own = self.u.u[self.grid.all_layers]",
        "own = self.u.u[1:]",
    ),
    "a dropped source term": Fault(
        "lpgpu/mgrit/relaxation.py",
        "out += level.g[grid.targets(grid.c_layers)]",
        "out += 0 * level.g[grid.targets(grid.c_layers)]",
    ),
    "a boundary state that is heard and not heeded": Fault(
        "lpgpu/mgrit/exchange.py",
        "self._level.states.start.copy_(self._arrival.wait())",
        "self._arrival.wait()",
    ),
    "an interval whose end does not come home": Fault(
        "lpgpu/mgrit/fas.py",
        "arrivals[-1] = end",
        "arrivals[-1] = 0 * end",
    ),
    "a C-point that one rank corrects and its neighbour does not": Fault(
        "lpgpu/mgrit/exchange.py",
        "last.copy_(fine.communicator.receive(last, grid.above).wait())",
        "fine.communicator.receive(last, grid.above).wait()",
    ),
}

# PathFinder comes first, because an editable install puts a finder of its own there, which would lead back to the
# repository.
RUN = """
import sys
from importlib.machinery import PathFinder
from pathlib import Path

sys.meta_path.insert(0, PathFinder)
sys.path.insert(0, str(Path.cwd()))
import lpgpu.mgrit.fas, lpgpu.nn.propagators.pair

for module in (lpgpu.mgrit.fas, lpgpu.nn.propagators.pair):
    if not Path(module.__file__).resolve().is_relative_to(Path.cwd().resolve()):
        sys.exit(f"imported {module.__file__}, which is not the copy")
import pytest
from hypothesis import Phase, settings

# a first failure is enough: it need not be made small
settings.register_profile("first failure", deadline=None, max_examples=25, phases=[Phase.generate])
sys.exit(pytest.main(["--hypothesis-profile=first failure", *sys.argv[1:]]))
"""


def run(fault: Fault | None, timeout: float = 150) -> tuple[bool, str]:
    """Whether the subset passes on a copy with `fault`, and what pytest printed.

    Raises:
        RuntimeError: when the tests neither passed nor failed.
    """
    with tempfile.TemporaryDirectory(prefix="lpgpu-mutation-") as folder:
        copy = Path(folder)
        for part in ("lpgpu", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        if fault is not None:
            fault.plant(copy)
        arguments = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", *SUBSET]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(
            [sys.executable, "-c", RUN, *arguments],
            cwd=copy,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )
    if done.returncode not in (0, 1) or "not the copy" in done.stdout:
        raise RuntimeError(f"the tests did not run (exit status {done.returncode}):\n{done.stdout}")
    return done.returncode == 0, done.stdout


def main() -> int:
    """Runs all faults, and none; prints a line for each; the exit status."""
    wanted: dict[str, Fault | None] = {"no fault": None, **FAULTS}
    complaints = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for (name, fault), (passed, output) in zip(wanted.items(), pool.map(run, wanted.values()), strict=True):
            first = next((line for line in output.splitlines() if line.startswith("FAILED")), "")
            print(f"{name}: tests {'pass' if passed else 'fail'} {first[:100]}", flush=True)
            if passed != (fault is None):
                complaints.append(f"{name}: the tests should have {'passed' if fault is None else 'failed'}\n{output}")
    print(*complaints, sep="\n", end="")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
