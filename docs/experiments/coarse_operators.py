"""The study of coarse operators: errors of MGRIT's gradients against sequential depth, before and after training.

    python docs/experiments/coarse_operators.py --out OUT.jsonl [--cases NAME,…] [--data-dir DIR] [--weights DIR]

Each network (coarse_networks.py) is trained serially in fp32, for at most --train-seconds; its weights are cached in
--weights. Then, in fp64, at the initial and at the trained weights, one batch's gradient by each solver of a grid is
held against that of `Serial()`. One JSON object per solver is appended to OUT.jsonl; solvers that are there already are
not tried again. Per network and weights a run stops after --seconds. Errors are relative 2-norms:

    gradient   all parameters of the network in one vector; worst: of the parameter tensor that is off most
    states     of all solves, all points
    depth      sequential depth, forward and adjoint, of all solves; serial_depth: that of exact propagation
    evaluations   of Φ on all levels, forward and adjoint, of all solves
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from coarse_networks import CASES, Case, loss_of
from torch import Tensor, nn

from lpgpu import MGRIT, Serial
from lpgpu.nn.trials import Trial, attempt

CYCLES = ((0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (3, 3), (4, 4), (6, 6))
OPERATORS = (
    {"coarse_operator": "rediscretised", "delta": "none"},
    {"coarse_operator": "rediscretised", "delta": "diagonal"},
    {"coarse_operator": "picard", "picard_order": 1},
    {"coarse_operator": "picard", "picard_order": 2},
    {"coarse_operator": "picard", "picard_order": 3},
    {"coarse_operator": "linear", "delta": "none"},
    {"coarse_operator": "linear", "delta": "auto"},
)


def groups_of(case: Case) -> Iterator[list[MGRIT]]:
    """The solvers to try: the default one with every operator, then groups that differ in their cycles only."""
    operators = [each for each in OPERATORS if not (case.recurrent and each.get("delta") == "none")]
    yield from ([MGRIT(**operator)] for operator in ({}, *operators))
    for operator in sorted(operators, key=lambda each: each["coarse_operator"] != "linear"):
        linear = operator["coarse_operator"] == "linear"
        relaxations = ("F", "FCF") if operator["coarse_operator"] == "rediscretised" else ("F",)
        for levels, m in ((2, 2), (2, 4), (2, 8), (2, 16)) if linear else case.grids:
            if operator.get("picard_order", 1) >= m:  # it would be exact
                continue
            for relaxation in relaxations:
                grid = {"levels": levels, "coarsening": m, "relaxation": relaxation}
                yield [MGRIT(**grid, iterations=k, adjoint_iterations=n, **operator) for k, n in CYCLES]


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


def evaluate(case: Case, network: nn.Module, batch: tuple[Tensor, Tensor], weights: str, out: Path, seconds: float):
    """Try the grid of a case at some weights, few cycles first; rows are appended to `out`.

    A group ends with the first solver that is deeper than exact propagation, or exact to 1e-7.
    """
    known = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    network = network.double()
    inputs, labels = batch[0].double() if batch[0].is_floating_point() else batch[0], batch[1]

    def step() -> None:
        loss_of(network(inputs), labels).backward()

    names = [name for name, _ in network.named_parameters()]
    exact = attempt(network, step, Serial(), keep_states=True)
    begun = time.perf_counter()
    groups = list(groups_of(case))
    for cycle in range(len(CYCLES)):
        for group in [group for group in groups if cycle < len(group)]:
            if time.perf_counter() - begun > seconds:
                print(f"{case.name}, {weights}: out of time at cycles {CYCLES[cycle]}", flush=True)
                return
            setting = setting_of(group[cycle]) | {"case": case.name, "weights": weights}
            row = next((row for row in known if setting.items() <= row.items()), None)
            if row is None:
                try:
                    trial = attempt(network, step, group[cycle], keep_states=True)
                except ValueError:  # these layers offer no diagonals
                    group.clear()
                    continue
                counts = {"depth": trial.depth, "serial_depth": exact.depth, "evaluations": trial.evaluations}
                row = setting | errors(exact, trial, names) | counts | {"dtype": "float64", "batch": len(labels)}
                with out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            if row["gradient"] < 1e-7 or row["depth"] > exact.depth:
                group.clear()


def setting_of(solver: MGRIT) -> dict:
    """The solver, as JSON."""
    return {
        "operator": solver.coarse_operator,
        "order": solver.picard_order,
        "delta": solver.delta,
        "levels": solver.levels,
        "m": solver.coarsening,
        "relaxation": solver.relaxation,
        "cycles": [solver.iterations, solver.adjoint_iterations],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", default=",".join(case.name for case in CASES))
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--weights", type=Path, default=Path("runs/coarse-operators"))
    parser.add_argument("--train-seconds", type=float, default=300)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--grids", help='instead of those of each case: "LEVELS,M;LEVELS,M"')
    parser.add_argument("--at", default="trained,start", help="weights to evaluate at")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.weights.mkdir(parents=True, exist_ok=True)
    cases = {case.name: case for case in CASES}
    for case in (cases[name] for name in arguments.cases.split(",")):
        if arguments.grids:
            grids = (tuple(map(int, grid.split(","))) for grid in arguments.grids.split(";"))
            case = replace(case, grids=tuple((levels, m) for levels, m in grids))
        file = arguments.weights / f"{case.name.replace(' ', '-')}.pt"
        if not file.exists():
            weights, said = case.train(arguments.data_dir, arguments.train_seconds)
            torch.save({"weights": weights, "said": said}, file)
        saved = torch.load(file, weights_only=True)
        print(f"{case.name}: {saved['said']}", flush=True)
        for weights in arguments.at.split(","):
            network, batch = case.build(arguments.data_dir)
            if weights == "trained":
                network.load_state_dict(saved["weights"])
            evaluate(case, network, batch, weights, arguments.out, arguments.seconds)


if __name__ == "__main__":
    main()
