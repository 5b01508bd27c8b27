"""Iteration control: how many cycles the solves of training run, and when propagation is better serial.

A gradient by MGRIT is inexact. Of (Lin 2022) it is the sum Σ_k α_k ‖bias_k‖ of its biases, weighted by the learning
rates α_k, that has to stay bounded for SGD to converge; and on some networks the iteration does not converge at all
(Jiang et al. 2026, arXiv 2601.09026). Four rules:

    Fixed        the cycles of the options, always
    Probing      the same, and measures how far off the gradient is, now and then
    Adaptive     doubles the cycles on a probe batch, now and then, and looks at the residuals
    BiasBudget   measures the bias on a probe batch, now and then, and keeps Σ α_k ‖bias_k‖ ≤ B with the fewest cycles

A rule's *cycles* are those of the forward solve; the adjoint one keeps its distance to them, and at least one. `None`
cycles are serial propagation.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lpgpu import MGRIT, Serial
from lpgpu.train.methods.solvers import Probe
from lpgpu.train.methods.transfer import check_integer
from lpgpu.train.runs.metrics import Record


def two_norm(gradient: Sequence[Tensor]) -> float:
    """Of the parts of a vector that is all here."""
    return math.sqrt(sum(float(torch.linalg.vector_norm(part, dtype=torch.float64)) ** 2 for part in gradient))


@dataclass(frozen=True)
class Moment:
    """Where training stands before a step.

    >>> moment = Moment(step=0, steps=100, learning_rate=0.1, probe=lambda solver: Probe((), [1.0, 0.1], [1.0, 0.2]))
    >>> moment.probe(Serial()).forward
    [1.0, 0.1]

    Attributes:
        step: steps done, from 0; `steps`: those of the whole run.
        learning_rate: α of this step.
        probe: solver → the gradient of this step's batch with it.
        tune: the solver that `lpgpu.tune` finds on this step's batch.
        norm: 2-norm of what `Probe.gradient` holds; where ranks share the layers, over all, the same on every rank.
    """

    step: int
    steps: int
    learning_rate: float
    probe: Callable[[MGRIT | Serial], Probe]
    norm: Callable[[Sequence[Tensor]], float] = two_norm
    tune: Callable[[], MGRIT | Serial] = Serial

    def gradient_error(self, solver: MGRIT | Serial) -> float:
        """‖g̃ − ∇F‖ / ‖∇F‖ on this step's batch, of the gradient g̃ with `solver`; 0 where ∇F vanishes."""
        exact, inexact = (self.probe(each).gradient for each in (Serial(), solver))
        off, size = self.norm([a - b for a, b in zip(inexact, exact, strict=True)]), self.norm(exact)
        return off / size if size > 0 else 0.0


class Control(ABC):
    """A rule that chooses the solver of every training step.

    Raises:
        TypeError: for a `solver` that is none. The rules also refuse their own arguments: TypeError where these are no
            numbers, ValueError where the numbers cannot be.
    """

    def __init__(self, solver: MGRIT | Serial):
        if not isinstance(solver, MGRIT | Serial):
            raise TypeError(f"solver is {solver!r}; expected an MGRIT(...), Parareal(...) or Serial()")
        self.start = solver
        self.cycles = solver.iterations if isinstance(solver, MGRIT) else None

    @property
    def solver(self) -> MGRIT | Serial:
        """The solver of the next step."""
        return self.with_cycles(self.cycles)

    def with_cycles(self, cycles: int | None) -> MGRIT | Serial:
        """The solver that runs so many cycles forward; None: serial."""
        if cycles is None or not isinstance(self.start, MGRIT):
            return Serial()
        adjoint = max(1, cycles + self.start.adjoint_iterations - self.start.iterations)
        return self.start if cycles == self.start.iterations else _run(self.start, cycles, adjoint)

    @abstractmethod
    def before_step(self, moment: Moment) -> Record | None:
        """Perhaps change `solver`; the decision as a record, None where there was none to make."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: value for name, value in vars(self).items() if name in self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        for name in self.kept:
            setattr(self, name, state[name])

    kept: tuple[str, ...] = ("cycles",)


class Fixed(Control):
    """The solver of the options, always.

    >>> Fixed(MGRIT(iterations=3)).solver.iterations
    3
    """

    def before_step(self, moment: Moment) -> Record | None:
        return None


class Probing(Fixed):
    """The solver of the options, always; every `every` steps its gradient is compared with the exact one.

    >>> control = Probing(MGRIT(), every=100)
    >>> def probe(solver: MGRIT | Serial) -> Probe:
    ...     return Probe((torch.tensor([1.0 if isinstance(solver, Serial) else 1.5]),), [], [])
    >>> control.before_step(Moment(step=0, steps=1000, learning_rate=0.1, probe=probe))
    {'step': 0, 'gradient_error': 0.5}
    """

    def __init__(self, solver: MGRIT | Serial, *, every: int):
        super().__init__(solver)
        check_integer("every", every, 1)
        self.every = every

    def before_step(self, moment: Moment) -> Record | None:
        if moment.step % self.every:
            return None
        return {"step": moment.step, "gradient_error": _finite(moment.gradient_error(self.solver))}


class Adaptive(Control):
    """Every `every` steps the cycles k are doubled for one probe, whose residuals r_0 … r_{2k−1} decide.

    ρ = ‖r_{2k−1}‖ / ‖r_{2k−2}‖, of the last cycle, forward or adjoint, whichever is worse:
    ρ > 1 or not finite: the solves diverge, so k is doubled; beyond `most` cycles propagation becomes serial.
    ρ ≤ 1: k becomes the least number with ‖r_k‖ ≤ target ‖r_0‖ in the probe; where there is none, it is doubled, up to
    `most`. While propagation is serial the probe runs `most` cycles, and MGRIT returns once ρ ≤ 1.

    >>> control = Adaptive(MGRIT(iterations=2), every=100, most=8, target=0.05)
    >>> residuals = [1.0, 0.3, 0.09, 0.027]  # of twice as many cycles: three suffice
    >>> probe = Probe((), residuals, residuals)
    >>> control.before_step(Moment(step=0, steps=1000, learning_rate=0.1, probe=lambda solver: probe))["cycles"]
    3
    """

    def __init__(self, solver: MGRIT | Serial, *, every: int, most: int, target: float):
        super().__init__(solver)
        check_integer("every", every, 1)
        check_integer("most", most, 1)
        _check_positive("target", target)
        self.every, self.most, self.target = every, most, target

    def before_step(self, moment: Moment) -> Record | None:
        if moment.step % self.every or not isinstance(self.start, MGRIT):
            return None
        before = self.cycles
        doubled = self.most if before is None else max(2, 2 * before)
        longer = _run(self.start, doubled, doubled)
        probe = moment.probe(longer)
        histories = [probe.forward, probe.adjoint]
        ratio = max(map(_last_ratio, histories))
        if not ratio <= 1:
            self.cycles = None if before is None or 2 * max(1, before) > self.most else 2 * max(1, before)
        else:
            self.cycles = min(self.most, max(1, _cycles_to(self.target, histories)))
        return {
            "step": moment.step,
            "ratio": _finite(ratio),
            "cycles_before": before,
            "cycles": self.cycles,
        }


class BiasBudget(Control):
    """Keeps S = Σ_j α_j ‖g̃_j − ∇F_j‖ ≤ B over a run of K steps, with the fewest cycles.

    Every `every` steps k, the bias b(c) of c cycles is measured on the step's batch against the serial gradient, and is
    taken to hold until the next probe. c is allowed when S + α_k (K − k) b(c) ≤ B: from the present c upwards, one at a
    time, until it is, beyond `most` serial; where it is at once, downwards as long as it is. Every measurement costs a
    gradient. Where α_k is 0, such as at the end of a cosine schedule, nothing is measured: a step that goes nowhere
    says nothing of those that follow.

    >>> control = BiasBudget(MGRIT(iterations=1), every=100, most=8, bound=2.0)
    >>> def probe(solver: MGRIT | Serial) -> Probe:  # whose bias is 10^−cycles
    ...     bias = 0.0 if isinstance(solver, Serial) else 0.1**solver.iterations
    ...     return Probe((torch.tensor([1.0 + bias], dtype=torch.float64),), [], [])
    >>> control.before_step(Moment(step=0, steps=1000, learning_rate=0.1, probe=probe))["cycles"]
    2
    """

    kept = ("cycles", "bias", "spent")

    def __init__(self, solver: MGRIT | Serial, *, every: int, most: int, bound: float):
        super().__init__(solver)
        check_integer("every", every, 1)
        check_integer("most", most, 1)
        _check_positive("bound", bound)
        self.every, self.most, self.bound = every, most, bound
        self.bias, self.spent = 0.0, 0.0

    def before_step(self, moment: Moment) -> Record | None:
        decision = None
        if moment.step % self.every == 0 and moment.learning_rate > 0 and isinstance(self.start, MGRIT):
            decision = self._decide(moment)
        self.spent += moment.learning_rate * self.bias
        return decision

    def _decide(self, moment: Moment) -> Record:
        exact = moment.probe(Serial()).gradient
        before, measured = self.cycles, {}
        allowance = self._allowance(moment)

        def allowed(cycles: int) -> bool:
            gradient = moment.probe(self.with_cycles(cycles)).gradient
            bias = moment.norm([inexact - g for inexact, g in zip(gradient, exact, strict=True)])
            measured[cycles] = bias
            return math.isfinite(bias) and bias <= allowance

        cycles = self.most if before is None else max(1, before)
        if allowed(cycles):
            while cycles > 1 and allowed(cycles - 1):
                cycles -= 1
            self.cycles = cycles
        else:
            self.cycles = next((more for more in range(cycles + 1, self.most + 1) if allowed(more)), None)
        self.bias = 0.0 if self.cycles is None else measured[self.cycles]
        return {
            "step": moment.step,
            "cycles_before": before,
            "cycles": self.cycles,
            "bias": self.bias,
            "gradient": _finite(moment.norm(exact)),
            "allowance": _finite(allowance),
            "spent": self.spent,
        }

    def _allowance(self, moment: Moment) -> float:
        """The bias that fits into what is left of the budget, if every step from here on has it."""
        return (self.bound - self.spent) / (moment.learning_rate * max(1, moment.steps - moment.step))


def _run(solver: MGRIT, cycles: int, adjoint_cycles: int) -> MGRIT:
    return replace(solver, iterations=cycles, adjoint_iterations=adjoint_cycles)


def _check_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}; expected a number > 0")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {value}; expected a finite number > 0")


def _finite(value: float) -> float | None:
    """What JSON can hold of `value`."""
    return value if math.isfinite(value) else None


def _last_ratio(norms: list[float]) -> float:
    """‖r_{k+1}‖ / ‖r_k‖ of the last cycle; 0 where there is nothing left to reduce, infinite where it is not finite."""
    if not norms or not all(map(math.isfinite, norms)):
        return math.inf if norms else 0.0
    if len(norms) < 2 or norms[-1] <= 1e-5 * norms[0]:  # down to rounding, where residuals no longer fall
        return 0.0
    return norms[-1] / norms[-2] if norms[-2] > 0 else math.inf


def _cycles_to(target: float, histories: list[list[float]]) -> int:
    """The least k with ‖r_k‖ ≤ target ‖r_0‖ in all histories; their length where there is none."""
    needed = [next((k for k, norm in enumerate(norms) if norm <= target * norms[0]), len(norms)) for norms in histories]
    return max(needed)
