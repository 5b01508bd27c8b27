"""tune: which solver to propagate a network with, found by trying on the user's own network, batch and device."""

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, TypeVar, get_args

import torch
from torch import nn

from lpgpu.comm import Communicator
from lpgpu.mgrit import MGRIT, Serial, Solver
from lpgpu.mgrit.counting import Counts, count_work
from lpgpu.nn.candidates import Search, families
from lpgpu.nn.layer_parallel import LayerParallel
from lpgpu.nn.memory import peak_bytes
from lpgpu.nn.solver_module import solver_modules
from lpgpu.nn.trials import SolveInTrial, Step, attempt
from lpgpu.nn.verify import check_arguments, communicator_of, exact_trial, gradient_error_of

By = Literal["time", "depth"]
T = TypeVar("T")


@dataclass(frozen=True)
class Tried:
    """A solver that was tried on a step.

    Attributes:
        seconds: of the step, the slowest rank's; `depth`: sequential depth of all solves, forward and adjoint.
        gradient_error: relative, of the whole gradient; infinite where the step ran out of memory.
        memory: most bytes that the step had at one time beside what there was before, this rank's; None: not measured.
    """

    solver: Solver
    seconds: float
    depth: int
    evaluations: int
    gradient_error: float
    memory: int | None = None


@dataclass(frozen=True)
class Tuning:
    """What a search has found: the solver, all that was tried, and of it the front, cheapest first."""

    solver: Solver
    tried: tuple[Tried, ...]
    front: tuple[Tried, ...]

    def table(self) -> str:
        """The front, one solver a line, the chosen one marked."""
        lines = [f"{'time':>10} {'depth':>7} {'memory':>10} {'gradient error':>15}   solver"]
        for each in self.front:
            memory = "" if each.memory is None else f"{each.memory / 2**20:.1f} MiB"
            mark = "  <- chosen" if each.solver == self.solver else ""
            lines.append(
                f"{1e3 * each.seconds:>7.1f} ms {each.depth:>7} {memory:>10} {each.gradient_error:>15.1e}   "
                f"{shown(each.solver)}{mark}"
            )
        return "\n".join(lines)


def tune(
    net: nn.Module,
    step: Step,
    *,
    gradient_error: float = 1e-2,
    by: By = "time",
    max_tries: int = 60,
    max_seconds: float = 300.0,
    progress: bool = True,
) -> Solver:
    """The cheapest solver whose gradient is within `gradient_error` of the exact one, on a step of the user's.

    `step()` runs `net` forward and backward once, as for `verify`: lambda: loss(net(x), y).backward(). It is called
    several times for each of up to `max_tries` solvers, and leaves the network as it was, its solver too: assign what
    is returned. The front of time, depth, memory and gradient error is printed. Bounds that were found on fresh weights
    say little of trained ones: tune again, or verify, as training goes on. Where nothing within the error is cheaper
    than exact propagation, it is `Serial()` that is returned; on one CPU thread that is often so by time.

    Levels, m, relaxation, coarse operator with its order, and cycles are searched for; other options are those of the
    network's own solver. Ranks that share the network all call, and get the same solver.

    >>> net = LayerParallel(None, lambda: nn.Linear(4, 4), 64, Tf=1.0)
    >>> x = torch.randn(8, 4)
    >>> step = lambda: net(x).square().mean().backward()
    >>> net.solver = tune(net, step, by="depth", max_tries=8, progress=False)
    >>> from lpgpu import verify
    >>> verify(net, step).gradient <= 1e-2
    True

    Args:
        by: "time": seconds of the step on this device; "depth": the longest chain of dependent layers, forward and
            adjoint, which is what counts on a machine that is wide enough.
        max_tries, max_seconds: the search ends with the best so far; at least the network's own solver is tried.
        progress: whether to show a bar on stderr (in a terminal) and print the front.

    Raises:
        TypeError, ValueError: as `verify` does, and for arguments that are not as above.
        Exception: what `step()` raises.
    """
    tuning = search(
        net, step, gradient_error=gradient_error, by=by, max_tries=max_tries, max_seconds=max_seconds, progress=progress
    )
    if progress and communicator_of(net).rank == 0:
        print(tuning.table())
    return tuning.solver


def search(
    net: nn.Module,
    step: Step,
    *,
    gradient_error: float = 1e-2,
    by: By = "time",
    max_tries: int = 60,
    max_seconds: float = 300.0,
    progress: bool = False,
    communicator: Communicator | None = None,
) -> Tuning:
    """What `tune` does, with all that was tried; prints nothing but the bar.

    `communicator` has all ranks that are to choose the same, where these are more than share the network.
    """
    check_arguments(net, step)
    _check_options(gradient_error, by, max_tries, max_seconds)
    bench = _Bench(net, step, communicator or communicator_of(net))
    begun = time.perf_counter()
    base = next((part.solver for part in solver_modules(net) if isinstance(part.solver, MGRIT)), MGRIT())
    tried = [bench.exact, bench.attempt(base)]
    queue = Search(list(families(max(solve.num_steps for solve in bench.solves), base)), gradient_error)
    from tqdm import tqdm  # here, so that a machine with nothing but torch can import lpgpu

    bar = tqdm(total=max_tries, disable=None if progress and bench.communicator.rank == 0 else True, desc="tuning")
    with bar:
        while len(tried) - 1 < max_tries and bench.of_root(time.perf_counter() - begun) < max_seconds:
            cost = _cost(by, bench, tried)
            best = _best(tried, gradient_error, by)
            limit = best.depth if by == "depth" else 1.5 * best.seconds  # the model of the time is a rough one
            if (coming := queue.next(cost, limit)) is None:
                break
            family, place = coming
            tried.append(bench.attempt(family.member(place)))
            family.errors[place] = tried[-1].gradient_error
            bar.update()
            bar.set_postfix_str(f"{shown(_best(tried, gradient_error, by).solver)}")
    front = tuple(bench.measured(each) for each in _front(tried, by))
    return Tuning(_best(front, gradient_error, by).solver, tuple(tried), front)


class _Bench:
    """Tries solvers on one step, against exact propagation. All its figures are the same on every rank."""

    def __init__(self, net: nn.Module, step: Step, communicator: Communicator) -> None:
        self.net = net
        self.step = step
        self.communicator = communicator
        self._exact = exact_trial(net, step, keep_states=False)
        self.solves: list[SolveInTrial] = self._exact.solves
        depth, evaluations = self.of_root((self._exact.depth, self._exact.evaluations))
        self.exact = Tried(Serial(), self._seconds(Serial()), depth, evaluations, 0.0)
        self.work = cache(self._work)

    def attempt(self, solver: Solver) -> Tried:
        """The error of the gradient with `solver`, and the time of a second run: the first one may compile kernels."""
        try:
            trial = attempt(self.net, self.step, solver)
            seconds = self._seconds(solver)
        except torch.OutOfMemoryError:
            if self.communicator.size > 1:  # the others wait for this rank
                raise
            return Tried(solver, math.inf, self.work(solver).depth, self.work(solver).evaluations, math.inf)
        error = gradient_error_of(self.net, trial, self._exact)
        depth, evaluations, error = self.of_root((trial.depth, trial.evaluations, error))
        return Tried(solver, seconds, depth, evaluations, error)

    def measured(self, tried: Tried) -> Tried:
        """The same with its memory, and the better of two times."""
        memory = peak_bytes(lambda: attempt(self.net, self.step, tried.solver), next(self.net.parameters()).device)
        return replace(tried, seconds=min(tried.seconds, self._seconds(tried.solver)), memory=memory)

    def of_root(self, value: T) -> T:
        """The first rank's figure, so that all decide alike."""
        return self.communicator.allgather(value)[0]

    def _seconds(self, solver: Solver) -> float:
        """The time of a step; on a GPU the better of two, the first of which may record the graphs of its solves."""
        device = next(self.net.parameters()).device
        seconds = math.inf
        for _ in range(2 if device.type == "cuda" else 1):
            _wait(device)
            begun = time.perf_counter()
            attempt(self.net, self.step, solver)
            _wait(device)
            seconds = min(seconds, time.perf_counter() - begun)
        return max(self.communicator.allgather(seconds))

    def _work(self, solver: Solver) -> Counts:
        """Of all solves of the step, one after the other."""
        counts = [self._count(solver, solve) for solve in self.solves]
        return Counts(
            sum(each.forward_depth for each in counts),
            sum(each.adjoint_depth for each in counts),
            sum(each.evaluations for each in counts),
        )

    def _count(self, solver: Solver, solve: SolveInTrial) -> Counts:
        of = solve.propagator
        counts = count_work(
            solver,
            solve.num_steps,
            sources=not isinstance(self.net.get_submodule(solve.part), LayerParallel),
            preferred=of.preferred,
            has_diagonal=of.has_diagonal,
            prefers_delta=of.prefers_delta,
        )
        walked = solve.walked
        return Counts(counts.forward_depth + walked, counts.adjoint_depth + walked, counts.evaluations + 2 * walked)


def _cost(by: By, bench: _Bench, tried: list[Tried]) -> Callable[[MGRIT], float]:
    """What a solver is expected to cost: its depth, or a · depth + b · evaluations, fitted to the times so far."""
    if by == "depth":
        return lambda solver: bench.work(solver).depth
    a, b = _fitted(tried)
    return lambda solver: a * bench.work(solver).depth + b * bench.work(solver).evaluations


def _fitted(tried: list[Tried]) -> tuple[float, float]:
    """a, b ≥ 0 with the least squares of 1 − (a · depth + b · evaluations)/seconds."""
    rows = [(t.depth / t.seconds, t.evaluations / t.seconds) for t in tried if 0 < t.seconds < math.inf]
    dd, de, ee = (
        sum(x * y for x, y in pairs) for pairs in ([(d, d) for d, _ in rows], rows, [(e, e) for _, e in rows])
    )
    d, e = sum(d for d, _ in rows), sum(e for _, e in rows)
    determinant = dd * ee - de * de
    if determinant > 1e-9 * dd * ee:
        a, b = (d * ee - e * de) / determinant, (e * dd - d * de) / determinant
        if a >= 0 and b >= 0:
            return a, b
    return min(((d / dd, 0.0), (0.0, e / ee)), key=lambda ab: sum((1 - ab[0] * x - ab[1] * y) ** 2 for x, y in rows))


def _best(tried: list[Tried] | tuple[Tried, ...], aim: float, by: By) -> Tried:
    """The cheapest within the aim; exact propagation is."""
    return min((each for each in tried if each.gradient_error <= aim), key=lambda each: _price(each, by))


def _front(tried: list[Tried], by: By) -> list[Tried]:
    """Those that no other one beats in cost and error both, cheapest first."""
    front: list[Tried] = []
    for each in sorted(tried, key=lambda each: (_price(each, by), each.gradient_error)):
        if math.isfinite(each.gradient_error) and (not front or each.gradient_error < front[-1].gradient_error):
            front.append(each)
    return front


def _price(tried: Tried, by: By) -> float:
    return tried.depth if by == "depth" else tried.seconds


def shown(solver: Solver) -> str:
    """The solver, without the options that are as by default."""
    if isinstance(solver, Serial):
        return "Serial()"
    fields = [(field, getattr(solver, field.name)) for field in dataclasses.fields(solver)]
    return f"MGRIT({', '.join(f'{field.name}={value!r}' for field, value in fields if value != field.default)})"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _check_options(gradient_error: float, by: str, max_tries: int, max_seconds: float) -> None:
    for name, value in (("gradient_error", gradient_error), ("max_seconds", max_seconds)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} is {value!r}; expected a number > 0")
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; expected a finite number > 0")
    if by not in get_args(By):
        raise ValueError(f"by is {by!r}; expected 'time' or 'depth'")
    if isinstance(max_tries, bool) or not isinstance(max_tries, int) or max_tries < 1:
        raise ValueError(f"max_tries is {max_tries!r}; expected an integer ≥ 1")
