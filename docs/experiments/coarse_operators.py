"""The study of coarse operators: errors of MGRIT's gradients against sequential depth, before and after training.

    python docs/experiments/coarse_operators.py --out OUT.jsonl [--cases NAME,…] [--data-dir DIR] [--weights DIR]
    python docs/experiments/coarse_operators.py --out OUT.jsonl --least-depth 1e-2,1e-3 [--cases NAME,…]

Each network (coarse_networks.py) is trained serially in fp32, for at most --train-seconds of processor time; its
weights are cached in --weights. Then, in fp64, at the initial and at the trained weights, one batch's gradient by each
solver of a grid is held against that of `Serial()`; --operators, --grids, --relaxations and --multigrid choose from the
grid or widen it.
With --least-depth it is `lpgpu.tune(by="depth")` that chooses the solvers, for each of these errors.

One JSON object per solver is appended to OUT.jsonl; solvers that are there already are not tried again. Per network
and weights a run stops after --seconds of processor time. Errors are relative 2-norms:

    gradient   all parameters of the network in one vector; worst: of the parameter tensor that is off most
    states     of all solves, all points
    depth      sequential depth, forward and adjoint, of all solves; serial_depth: that of exact propagation
    evaluations   of Φ on all levels, forward and adjoint, of all solves
    aim        where `tune` was asked for the least depth: the error that it was asked for
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from coarse_networks import CASES, Case, loss_of
from torch import Tensor, nn

from lpgpu import MGRIT, Serial
from lpgpu.nn.trials import Trial, attempt
from lpgpu.nn.tune import search

CYCLES = ((0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (3, 3), (4, 4), (6, 6))
OPERATORS = {
    "rediscretised": {"coarse_operator": "rediscretised", "delta": "none"},
    "rediscretised Δ": {"coarse_operator": "rediscretised", "delta": "diagonal"},
    "picard 1": {"coarse_operator": "picard", "picard_order": 1},
    "picard 2": {"coarse_operator": "picard", "picard_order": 2},
    "picard 3": {"coarse_operator": "picard", "picard_order": 3},
    "linear identity": {"coarse_operator": "linear", "delta": "none"},
    "linear": {"coarse_operator": "linear", "delta": "auto"},
}


@dataclass(frozen=True)
class Tries:
    """What is tried of the grid: names of `OPERATORS`; (levels, m), None: the case's; relaxations, None: the
    operator's; kinds of cycle; how many cycles, forward and adjoint.
    """

    operators: tuple[str, ...] = tuple(OPERATORS)
    grids: tuple[tuple[int, int], ...] | None = None
    relaxations: tuple[str, ...] | None = None
    kinds: tuple[str, ...] = ("V",)
    cycles: tuple[tuple[int, int], ...] = CYCLES

    def groups(self, case: Case) -> Iterator[list[MGRIT]]:
        """The solvers to try: the default one with every operator, then groups that differ in their cycles only."""
        chosen = [OPERATORS[name] for name in self.operators]
        operators = [each for each in chosen if not (case.recurrent and each.get("delta") == "none")]
        yield from ([MGRIT(**operator)] for operator in ({}, *operators))
        for operator in sorted(operators, key=lambda each: each["coarse_operator"] != "linear"):
            for options in self._grids(case, operator):
                yield [MGRIT(**options, iterations=k, adjoint_iterations=n, **operator) for k, n in self.cycles]

    def _grids(self, case: Case, operator: dict) -> Iterator[dict]:
        """Levels, m, relaxation and kind of cycle for an operator."""
        linear = operator["coarse_operator"] == "linear"
        usual = ("F", "FCF") if operator["coarse_operator"] == "rediscretised" else ("F",)
        grids = self.grids or (((2, 2), (2, 4), (2, 8), (2, 16)) if linear else case.grids)
        for (levels, m), relaxation, cycle in product(grids, self.relaxations or usual, self.kinds):
            if operator.get("picard_order", 1) >= m or (levels == 2 and cycle != "V"):  # exact; the same as V
                continue
            yield {"levels": levels, "coarsening": m, "relaxation": relaxation, "cycle": cycle}


def errors(exact: Trial, trial: Trial, names: list[str]) -> dict:
    """Relative errors of gradient and states."""
    pairs = [
        (name, a, b) for name, a, b in zip(names, trial.gradient, exact.gradient, strict=True) if a is not None is not b
    ]
    whole = torch.cat([b.flatten() for _, _, b in pairs]).norm()
    off = torch.cat([(a - b).flatten() for _, a, b in pairs]).norm()
    worst = max((float((a - b).norm() / b.norm()), name) for name, a, b in pairs if b.norm() > 0)
    states, exact_states = (
        torch.cat([each.states.flatten() for each in one.solves if each.states is not None]) for one in (trial, exact)
    )
    return {
        "gradient": float(off / whole),
        "worst": worst[0],
        "worst_parameter": worst[1],
        "states": float((states - exact_states).norm() / exact_states.norm()),
    }


@dataclass(frozen=True)
class Subject:
    """A network of the study at some weights, in fp64, with the step that is asked for a gradient, and the rows."""

    case: Case
    network: nn.Module
    step: Callable[[], None]
    about: dict
    out: Path

    @classmethod
    def of(cls, case: Case, network: nn.Module, batch: tuple[Tensor, Tensor], about: dict, out: Path) -> "Subject":
        """`about`: which network it is, at which weights, in the words of the rows."""
        inputs, labels = batch[0].double() if batch[0].is_floating_point() else batch[0], batch[1]
        network = network.double()

        def step() -> None:
            loss_of(network(inputs), labels).backward()

        return cls(case, network, step, about | {"dtype": "float64", "batch": len(labels)}, out)

    def known(self, setting: dict) -> dict | None:
        """The row of this setting, where there is one."""
        lines = self.out.read_text().splitlines() if self.out.exists() else []
        wanted = self.about | setting
        return next((row for row in map(json.loads, lines) if wanted.items() <= row.items()), None)

    def write(self, row: dict) -> dict:
        """Append a row, and return it whole."""
        row = self.about | row
        with self.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return row


def evaluate(subject: Subject, tries: Tries, seconds: float) -> None:
    """Try the grid of a case, few cycles first.

    A group ends with the first solver that is deeper than exact propagation, or exact to 1e-7.
    """
    network, step = subject.network, subject.step
    names = [name for name, _ in network.named_parameters()]
    exact = attempt(network, step, Serial(), keep_states=True)
    begun = time.process_time()
    groups = list(tries.groups(subject.case))
    for cycle in range(len(tries.cycles)):
        for group in [group for group in groups if cycle < len(group)]:
            if time.process_time() - begun > seconds:
                print(f"{subject.about}: out of time at cycles {tries.cycles[cycle]}", flush=True)
                return
            setting = setting_of(group[cycle]) | {"aim": None}
            row = subject.known(setting)
            if row is None:
                try:
                    trial = attempt(network, step, group[cycle], keep_states=True)
                except ValueError:  # these layers offer no diagonals
                    group.clear()
                    continue
                counts = {"depth": trial.depth, "serial_depth": exact.depth, "evaluations": trial.evaluations}
                row = subject.write(setting | errors(exact, trial, names) | counts)
            if row["gradient"] < 1e-7 or row["depth"] > exact.depth:
                group.clear()


def least_depth(subject: Subject, aim: float, tries: int) -> None:
    """Ask `tune` for the least depth within `aim`, in at most so many tries; append what it found, and print it."""
    row = subject.known({"aim": aim})
    if row is None:
        found = search(subject.network, subject.step, gradient_error=aim, by="depth", max_tries=tries, max_seconds=1e9)
        serial = next(each for each in found.tried if isinstance(each.solver, Serial))
        best = next(each for each in found.front if each.solver == found.solver)
        solver = found.solver if isinstance(found.solver, MGRIT) else MGRIT(levels=1)
        counts = {"depth": best.depth, "serial_depth": serial.depth, "evaluations": best.evaluations}
        tried = {"aim": aim, "tries": len(found.tried), "gradient": best.gradient_error}
        row = subject.write(setting_of(solver) | tried | counts)
    operator = row["operator"] + (f" {row['order']}" if row["operator"] == "picard" else "")
    cycles = "/".join(map(str, row["cycles"]))
    solver = f"{operator} {row['levels']}, {row['m']}, {row['relaxation']}, {cycles}"
    print(
        f"| {row['case']}, seed {row['seed']}, {row['weights']} | {aim:g} | {row['depth']} of {row['serial_depth']} "
        f"| {'none found below serial' if row['levels'] == 1 else solver} | {row['gradient']:.1e} "
        f"| {row['evaluations']} of {row['serial_depth']} |",
        flush=True,
    )


def setting_of(solver: MGRIT) -> dict:
    """The solver, as JSON."""
    return {
        "operator": solver.coarse_operator,
        "order": solver.picard_order,
        "delta": solver.delta,
        "levels": solver.levels,
        "m": solver.coarsening,
        "relaxation": solver.relaxation,
        "cycle": solver.cycle,
        "cycles": [solver.iterations, solver.adjoint_iterations],
    }


def weights_of(case: Case, arguments: argparse.Namespace) -> dict[str, Tensor]:
    """The trained weights of a case, trained now where they are not in the folder of weights."""
    file = arguments.weights / f"{case.name.replace(' ', '-')}-seed-{arguments.seed}.pt"
    if not file.exists():
        weights, said = case.train(arguments.data_dir, arguments.seed, arguments.train_seconds)
        arguments.weights.mkdir(parents=True, exist_ok=True)
        torch.save({"weights": weights, "said": said}, file)
    saved = torch.load(file, weights_only=True)
    print(f"{case.name}, seed {arguments.seed}: {saved['said']}", flush=True)
    return saved["weights"]


def names(text: str) -> tuple[str, ...]:
    """Words between commas."""
    return tuple(text.split(","))


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=names, default=tuple(case.name for case in CASES))
    parser.add_argument("--seed", type=int, default=0, help="of initial weights, training and batch [%(default)s]")
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--weights", type=Path, default=Path("runs/coarse-operators"))
    parser.add_argument("--train-seconds", type=float, default=300)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--at", type=names, default=("trained", "start"), help="weights to evaluate at")
    parser.add_argument("--operators", type=names, default=tuple(OPERATORS), help=f"of {', '.join(OPERATORS)}")
    parser.add_argument("--grids", help='instead of those of each case: "LEVELS,M;LEVELS,M"')
    parser.add_argument("--relaxations", type=names, help="F,FCF")
    parser.add_argument("--cycles", type=names, help="forward/adjoint: 2/1,2/2 [0/0 to 6/6]")
    parser.add_argument("--multigrid", type=names, default=("V",), help="kinds of cycle: V,F,W [V]")
    parser.add_argument("--tries", type=int, default=40, help="of `tune`, with --least-depth [%(default)s]")
    parser.add_argument("--least-depth", type=names, metavar="ERROR,…", help="tune by depth, instead of the grid")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(1)
    grids = [tuple(map(int, grid.split(","))) for grid in arguments.grids.split(";")] if arguments.grids else []
    pairs = tuple((levels, m) for levels, m in grids) or None
    cycles = tuple((int(k), int(n)) for k, n in (each.split("/") for each in arguments.cycles or ())) or CYCLES
    tries = Tries(arguments.operators, pairs, arguments.relaxations, arguments.multigrid, cycles)
    cases = {case.name: case for case in CASES}
    for case in (cases[name] for name in arguments.cases):
        trained = weights_of(case, arguments) if "trained" in arguments.at else {}
        for weights in arguments.at:
            network, batch = case.build(arguments.data_dir, arguments.seed)
            if weights == "trained":
                network.load_state_dict(trained)
            about = {"case": case.name, "weights": weights, "seed": arguments.seed}
            subject = Subject.of(case, network, batch, about, arguments.out)
            if not arguments.least_depth:
                evaluate(subject, tries, arguments.seconds)
            for aim in arguments.least_depth or ():
                least_depth(subject, float(aim), arguments.tries)


if __name__ == "__main__":
    main()
