"""How exact the solves of a trained network are: errors of states, output and gradient, from no cycle to more."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from lpgpu import Serial
from lpgpu.nn.trials import attempt
from lpgpu.nn.verify import Verification, compared, exact_trial
from lpgpu.train.after.trained import trained
from lpgpu.train.reports.figures import save, title_of
from lpgpu.train.reports.space_time import VERIFICATION, space_time
from lpgpu.train.runs.atomic import atomic_write
from lpgpu.train.setup.errors import InputError


def verify_run(folder: Path, *, more: int = 2, device: str | None = None) -> dict[str, Any]:
    """Verify the network of a run on its first training batch with 0, 1, … cycles, `more` than it was trained with.

    The adjoint solve keeps its distance to the forward one. Leaves `verification.json` and the space-time picture
    `space-time.png` in the folder, and returns what the former holds: relative errors against exact propagation.

    >>> from dataclasses import replace
    >>> from lpgpu.train import Run, find_recipe, train
    >>> recipe = find_recipe("peaks")
    >>> options = replace(recipe.defaults, epochs=1, layers=4, levels=2, device="cpu", run_dir=Path("peaks"))
    >>> summary = train(Run.create(recipe, options))
    >>> [cycle["iterations"] for cycle in verify_run(Path("peaks"))["cycles"]]
    [0, 1, 2, 3, 4]

    Raises `InputError` where there is no such run, no checkpoint, or where its options know no MGRIT.
    """
    run, trainer = trained(folder, device)
    inputs, labels = trainer.first_batch()
    network, mgrit = trainer.network, run.options.mgrit()
    if isinstance(mgrit, Serial) or mgrit.levels == 1:
        raise InputError(f"{folder} has one level: its solves are exact, there is nothing to verify")

    def step() -> None:
        trainer.problem.loss(network(inputs), labels).backward()

    exact = exact_trial(network, step)
    cycles = []
    for iterations in range(mgrit.iterations + more + 1):
        adjoint = max(0, iterations + mgrit.adjoint_iterations - mgrit.iterations)
        solver = replace(mgrit, iterations=iterations, adjoint_iterations=adjoint)
        found = compared(network, exact, attempt(network, step, solver, keep_states=True), layers=True)
        cycles.append({"iterations": iterations, "adjoint_iterations": adjoint, **_figures(found)})
    verification = {"trained_with": [mgrit.iterations, mgrit.adjoint_iterations], "cycles": cycles}
    if run.ranks.is_root:
        with atomic_write(folder / VERIFICATION) as file:
            file.write(json.dumps(verification, allow_nan=False).encode() + b"\n")
        save(space_time(verification, title_of(folder)), folder / "space-time.png")
    return verification


def format_verification(verification: dict[str, Any]) -> str:
    """A table for people, a row for each number of cycles.

    >>> row = {"iterations": 1, "adjoint_iterations": 1, "states": 0.01, "output": 0.02, "gradient": 0.03}
    >>> print(format_verification({"trained_with": [1, 1], "cycles": [row | {"depth": 8, "exact_depth": 64}]}))
    cycles     states    output  gradient         depth
    1/1       1.0e-02   2.0e-02   3.0e-02       8 of 64  as trained
    """
    lines = [f"{'cycles':<8}{'states':>9}{'output':>10}{'gradient':>10}{'depth':>14}"]
    for row in verification["cycles"]:
        cycles = [row["iterations"], row["adjoint_iterations"]]
        errors = "".join(
            f"{_shown(row[name]):>{9 if name == 'states' else 10}}" for name in ("states", "output", "gradient")
        )
        note = "  as trained" if cycles == verification["trained_with"] else ""
        lines.append(f"{'/'.join(map(str, cycles)):<8}{errors}{row['depth']:>8} of {row['exact_depth']}{note}")
    return "\n".join(lines)


def _figures(found: Verification) -> dict[str, Any]:
    """The errors of one trial as JSON's types."""
    layers: dict[str, list[float | None]] = {}
    for solve in found.solves:
        name = next(n for n in (solve.part, *(f"{solve.part} {i}" for i in range(2, 99))) if n not in layers)
        layers[name] = [_finite(error) for error in solve.layer_states or ()]
    errors = {"states": found.states, "output": found.output, "gradient": found.gradient}
    depth = {"depth": found.depth, "exact_depth": found.exact_depth}
    return {name: _finite(error) for name, error in errors.items()} | depth | {"layers": layers}


def _finite(error: float) -> float | None:
    return error if math.isfinite(error) else None


def _shown(error: float | None) -> str:
    return "–" if error is None else f"{error:.1e}"
