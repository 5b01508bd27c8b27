"""A cost model of one training step on P ranks: fitted on one process, checked on two, drawn for 1 … 1024 GPUs.

    python bench/scaling.py --json scaling.json
    python bench/model.py --scaling scaling.json [--json FILE] [--plot FILE]

One batched step of Φ over k layers, and a message:

    step(k) = overhead + layer · ⌈k / width⌉            hop = latency + bytes / bandwidth

`width` is how many layers a machine runs side by side for the price of one. A sweep of a level with n layers on the
fullest rank is m − 1 such steps with k = ⌈n/m⌉; the coarsest level is walked by one rank after the other, with a hop
between. bench/model_solve.py has the coarse operators and cycles; counts come from the same hierarchy that the solver
uses. How near a solve comes to the exact one is not modelled: the cycles of each series are those that
docs/experiments/coarse_operators.md found on trained weights.

Measured: a CPU core's `overhead` and `layer`, by least squares over solver settings on one process, in processor
seconds; and what bench/scaling.py measured. Everything of GPUs is estimated (the
figures are in bench/model_machines.py) and drawn as such: nothing was run on them.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from model_machines import GPUS, SERIES, UNIT, Machine, Seconds, Series, Work
from model_plot import draw
from model_solve import ModelledSolve
from scaling import CASES, SOLVER, Case
from scipy.optimize import nnls

from lpgpu import GRU, MGRIT, LayerParallel

RANKS = [2**i for i in range(11)]


def modelled(work: Work, machine: Machine, solver: MGRIT, ranks: int) -> Seconds:
    """One forward and backward on equal blocks."""
    total = busy = 0.0
    for adjoint, cycles in ((False, solver.iterations), (True, solver.adjoint_iterations)):
        solve = ModelledSolve(work, machine, solver, ranks, adjoint=adjoint)
        solve.run(cycles)
        # an allreduce of norms, and a broadcast of the end state, by trees
        collective = 2 * math.ceil(math.log2(ranks)) * solve.hop if ranks > 1 else 0.0
        total += solve.total + collective
        busy += solve.busy
    gradient = machine.gradient * math.ceil(work.steps / ranks) + machine.call
    return Seconds(work.parts * (total + gradient), work.parts * (busy + gradient))


def depth_of(work: Work, solver: MGRIT) -> int:
    """Sequential depth, forward and adjoint, of one of the `work.parts` solves: as the solver would count it."""
    solves = [ModelledSolve(work, UNIT, solver, 1, adjoint=adjoint) for adjoint in (False, True)]
    for solve, cycles in zip(solves, (solver.iterations, solver.adjoint_iterations), strict=True):
        solve.run(cycles)
    return sum(solve.depth for solve in solves)


def serial(work: Work, machine: Machine) -> float:
    """One layer after the other on one machine."""
    each = machine.step(1, adjoint=False) + machine.step(1, adjoint=True) + machine.gradient
    return work.parts * work.steps * each


def settings(work: Work, series: Series) -> Iterator[MGRIT]:
    """What the best is looked for among: levels and m, but for a linear operator, whose cycles depend on its m."""
    grids = ((levels, m) for levels in (2, 3, 4, 5) for m in (2, 4, 8, 16, 32))
    for levels, m in ((2, series.coarsening),) if series.coarsening else grids:
        if 2 * m ** (levels - 1) <= work.steps:
            yield MGRIT(levels=levels, coarsening=m, **series.options)


def fitted(case: Case, repeats: int) -> Machine:
    """This processor's figures for a case, from processor seconds of solves with different counts."""
    rows = []
    for solver in (
        *(MGRIT(levels=levels, coarsening=m, iterations=2) for levels in (2, 3) for m in (4, 8, 16)),
        MGRIT(levels=2, coarsening=8, relaxation="F", iterations=3, adjoint_iterations=2),
        MGRIT(levels=3, coarsening=4, iterations=1, adjoint_iterations=2),
    ):
        rows.append(_timed(case, replace(solver, coarse_operator="rediscretised"), repeats))
    forward, backward, of_forward, of_backward = (np.array(column) for column in zip(*rows, strict=True))
    (overhead, layer, call), _ = nnls(of_forward, forward)
    (adjoint_overhead, adjoint_layer, gradient, adjoint_call), _ = nnls(of_backward, backward)
    call += adjoint_call
    return Machine(overhead, layer, adjoint_overhead, adjoint_layer, gradient, 20e-6, 2e9, call=call)


def _timed(case: Case, solver: MGRIT, repeats: int) -> tuple[float, float, list[float], list[float]]:
    """Processor seconds of forward and backward, and the steps, evaluations (and layers) in them."""
    net = case.build(None, case.steps)
    if not isinstance(net, LayerParallel | GRU):
        raise TypeError(f"{type(net).__name__} is not propagated")
    net.solver = solver
    x = torch.randn(case.steps, case.state[0], 9) if isinstance(net, GRU) else torch.randn(case.state)
    times = []
    for _ in range(repeats + 1):
        began = time.process_time()
        y = net(x)
        half = time.process_time()
        (y[1] if isinstance(y, tuple) else y).square().sum().backward()
        times.append((half - began, time.process_time() - half))
    forward, backward = (statistics.median(column) for column in zip(*times[1:], strict=True))
    both = net.results
    counts = [
        [float(sum(r.sequential_depth for r in each)), float(sum(sum(r.evaluations) for r in each))]  # pyright: ignore
        for each in both
    ]
    parts = float(len(both[0]))
    return forward, backward, [*counts[0], parts], [*counts[1], parts * case.steps, parts]


def check(rows: list[dict], repeats: int) -> list[dict]:
    """Beside each measured row what the model says of it, with the machine fitted on one process."""
    found = []
    for case in CASES:
        mine = [row for row in rows if row["case"] == case.name]
        if not mine:
            continue
        machine = fitted(case, repeats)
        parts = int(case.name.startswith("gru-100")) + 1
        work = Work(case.name, case.steps, 4 * math.prod(case.state), parts, has_sources=case.name.startswith("gru"))
        for row in mine:
            hop = replace(machine, latency=row["hop"], bandwidth=math.inf)
            seconds = modelled(work, hop, SOLVER, row["ranks"])
            found.append(
                {
                    "case": case.name,
                    "ranks": row["ranks"],
                    "busy_measured": row["busy"],
                    "busy_modelled": seconds.busy,
                    "busy_off": seconds.busy / row["busy"] - 1,
                    "seconds_measured": row["seconds"],
                    "seconds_modelled": seconds.total,
                }
            )
    return found


def projected() -> list[dict]:
    """The best setting for every number of GPUs: of a fixed network, and of an eighth of it on each of them."""
    found = []
    for base, machine in GPUS.items():
        for kind, ranks, series in product(("strong", "weak"), RANKS, SERIES[base]):
            work = replace(base, steps=base.steps // 8 * ranks) if kind == "weak" else base
            best = min(settings(work, series), key=lambda s, w=work, r=ranks: modelled(w, machine, s, r).total)
            found.append(
                {
                    "work": base.name,
                    "kind": kind,
                    "ranks": ranks,
                    "steps": work.steps,
                    "series": series.name,
                    "levels": best.levels,
                    "coarsening": best.coarsening,
                    "depth": depth_of(work, best),
                    "seconds": modelled(work, machine, best, ranks).total,
                    "serial_seconds": serial(work, machine),
                }
            )
    return found


def main() -> None:
    """Fit and check where there are measurements, project, print, write and draw."""
    parser = argparse.ArgumentParser(description="cost model of layer-parallel training")
    parser.add_argument("--scaling", type=Path, help="what bench/scaling.py --json wrote: to be checked against")
    parser.add_argument("--repeats", type=int, default=3, help="timed solves of each setting (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where to write all figures as JSON")
    parser.add_argument("--plot", type=Path, help="where to draw them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    checked = check(json.loads(arguments.scaling.read_text()), arguments.repeats) if arguments.scaling else []
    for row in checked:
        print(
            f"{row['case']:16} {row['ranks']} ranks: busy {row['busy_measured']:.3f} s measured, "
            f"{row['busy_modelled']:.3f} s modelled ({row['busy_off']:+.0%})"
        )
    projections = projected()
    for row in projections:
        print(
            f"{row['work']:26} {row['kind']:6} {row['ranks']:5} GPUs, {row['steps']:6} layers, "
            f"{row['series']}: {row['levels']} levels, m = {row['coarsening']:2}, depth {row['depth']}, "
            f"{row['serial_seconds'] / row['seconds']:6.2f} times as fast as serial (modelled)"
        )
    if arguments.json:
        machines = {work.name: asdict(machine) for work, machine in GPUS.items()}
        figures = {"checked": checked, "projected": projections, "estimated_gpus": machines}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    if arguments.plot:
        draw(checked, projections, arguments.plot)


if __name__ == "__main__":
    main()
