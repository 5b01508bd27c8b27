"""Iteration control: rules against scripted residuals and biases, and in real runs."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from lpgpu import MGRIT, Serial
from lpgpu.train import InputError, find_recipe, train
from lpgpu.train.loop.trainer import Trainer
from lpgpu.train.methods.control import Adaptive, BiasBudget, Fixed, Moment
from lpgpu.train.methods.control_choice import control_of
from lpgpu.train.methods.solvers import Probe
from lpgpu.train.runs.metrics import read_records
from tests.train.helpers import tiny_run

START = MGRIT(levels=2, iterations=2, adjoint_iterations=1)


class Script:
    """A network whose residuals shrink by a factor per cycle, and whose bias is a function of the cycles."""

    def __init__(self, factor: float = 0.5, bias=lambda cycles: 0.0):
        self.factor, self.bias, self.asked = factor, bias, []

    def __call__(self, solver: MGRIT | Serial) -> Probe:
        self.asked.append(solver)
        if not isinstance(solver, MGRIT):
            return Probe((torch.zeros(2),), [], [])
        norms = [self.factor**k for k in range(solver.iterations)]
        gradient = torch.tensor([self.bias(solver.iterations), 0.0])
        return Probe((gradient,), norms, norms[: solver.adjoint_iterations])

    def moment(self, step: int = 0, steps: int = 100, learning_rate: float = 0.1) -> Moment:
        return Moment(step=step, steps=steps, learning_rate=learning_rate, probe=self)


def test_fixed_asks_for_nothing():
    script = Script()
    control = Fixed(START)
    assert control.before_step(script.moment()) is None
    assert control.solver is START and not script.asked


def adaptive(**changes) -> Adaptive:
    return Adaptive(START, **{"every": 10, "most": 8, "target": 0.1, **changes})


@pytest.mark.parametrize(("factor", "cycles"), [(0.05, 1), (0.3, 2), (0.4, 3), (0.6, 4)])
def test_adaptive_takes_the_fewest_cycles_to_the_target(factor: float, cycles: int):
    script, control = Script(factor), adaptive()
    decision = control.before_step(script.moment())
    assert isinstance(script.asked[0], MGRIT) and script.asked[0].iterations == 4  # twice two
    assert script.asked[0].adjoint_iterations == 4
    assert control.cycles == cycles and decision is not None
    assert (decision["cycles_before"], decision["cycles"]) == (2, cycles)
    assert decision["ratio"] == pytest.approx(factor)
    solver = control.solver
    assert isinstance(solver, MGRIT)
    assert (solver.iterations, solver.adjoint_iterations) == (cycles, max(1, cycles - 1))


@pytest.mark.parametrize("factor", [1.5, math.nan, math.inf])
def test_adaptive_adds_cycles_switches_to_serial_and_comes_back(factor: float):
    script, control = Script(factor), adaptive()
    cycles = []
    for step in range(0, 40, 10):
        control.before_step(script.moment(step))
        cycles.append(control.cycles)
    assert cycles == [4, 8, None, None] and control.solver == Serial()
    assert isinstance(script.asked[-1], MGRIT) and script.asked[-1].iterations == 8
    script.factor = 0.3
    decision = control.before_step(script.moment(40))
    assert control.cycles == 2 and decision is not None and decision["cycles_before"] is None


def test_adaptive_probes_as_often_as_it_should():
    script, control = Script(0.3), adaptive(every=7)
    decisions = [control.before_step(script.moment(step)) for step in range(22)]
    assert [step for step, decision in enumerate(decisions) if decision is not None] == [0, 7, 14, 21]


def test_residuals_at_rounding_are_not_taken_for_divergence():
    control = adaptive(most=16)
    norms = [1.0, 1e-4, 1e-7, 1.1e-7]
    script = lambda solver: Probe((torch.zeros(1),), norms, norms)  # noqa: E731
    control.before_step(Moment(step=0, steps=9, learning_rate=1.0, probe=script))
    assert control.cycles == 1


def budget(**changes) -> BiasBudget:
    return BiasBudget(START, **{"every": 10, "most": 6, "bound": 1.0, **changes})


@pytest.mark.parametrize(
    ("bound", "cycles"),
    [(100.0, 1), (4.9, 2), (1.0, 4), (0.4, 5), (0.2, 6), (0.05, None)],  # 0.1 · 100 · 2^−c is allowed up to the bound
)
def test_budget_takes_the_fewest_cycles_that_are_allowed(bound: float, cycles: int | None):
    script, control = Script(bias=lambda c: 2.0**-c), budget(bound=bound)
    decision = control.before_step(script.moment())
    assert control.cycles == cycles and decision is not None and decision["cycles"] == cycles
    assert decision["allowance"] == pytest.approx(bound / 10)
    assert control.bias == (0.0 if cycles is None else pytest.approx(2.0**-cycles))


def test_budget_is_kept_over_a_run_whose_bias_grows():
    script, control = Script(), budget(bound=1.0)
    spent = 0.0
    for step in range(100):
        script.bias = lambda c, step=step: 0.02 * (1 + step // 20) * 2.0**-c
        control.before_step(script.moment(step))
        spent += 0.1 * (0.0 if control.cycles is None else script.bias(control.cycles))
    assert 0 < spent <= 1.0
    assert control.spent == pytest.approx(spent)


@pytest.mark.parametrize("bias", [math.nan, math.inf])
def test_budget_without_a_finite_bias_is_serial(bias: float):
    script, control = Script(bias=lambda c: bias), budget()
    control.before_step(script.moment())
    assert control.solver == Serial() and control.spent == 0.0


def test_budget_learns_nothing_from_a_step_that_goes_nowhere():
    script, control = Script(bias=lambda c: 1e6), budget()
    assert control.before_step(script.moment(learning_rate=0.0)) is None
    assert control.solver == START and control.spent == 0.0 and not script.asked


@pytest.mark.parametrize("solver", [None, "mgrit", 2, MGRIT])
def test_a_rule_of_no_solver(solver):
    for rule in (
        Fixed,
        lambda s: Adaptive(s, every=1, most=1, target=0.1),
        lambda s: BiasBudget(s, every=1, most=1, bound=1),
    ):
        with pytest.raises(TypeError, match=r"solver is .*; expected an MGRIT"):
            rule(solver)


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (True, TypeError), (2.0, TypeError), ("2", TypeError)]
)
@pytest.mark.parametrize("name", ["every", "most"])
@pytest.mark.parametrize("rule", [adaptive, budget])
def test_bad_numbers_of_a_rule(rule, name: str, value, error):
    with pytest.raises(error, match=f"{name} is .*; expected"):
        rule(**{name: value})


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0.0, ValueError),
        (-1, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        (True, TypeError),
        ("1", TypeError),
    ],
)
@pytest.mark.parametrize(("rule", "name"), [(adaptive, "target"), (budget, "bound")])
def test_bad_bounds_of_a_rule(rule, name: str, value, error):
    with pytest.raises(error, match=f"{name} is .*; expected a (finite )?number > 0"):
        rule(**{name: value})


def test_decisions_are_json_even_where_training_diverges():
    def probe(solver: MGRIT | Serial) -> Probe:
        return Probe((torch.full((2,), math.nan),), [1.0, math.nan], [math.inf])

    for control in (budget(), adaptive()):
        decision = control.before_step(Moment(step=0, steps=9, learning_rate=1.0, probe=probe))
        json.dumps(decision, allow_nan=False)


def test_states_come_back():
    script, control = Script(bias=lambda c: 2.0**-c), budget(bound=0.2)
    control.before_step(script.moment())
    again = budget(bound=0.2)
    again.load_state_dict(json.loads(json.dumps(control.state_dict())))
    assert (again.cycles, again.bias, again.spent) == (control.cycles, control.bias, control.spent)


def test_a_rule_without_an_iteration():
    options = dataclasses.replace(find_recipe("digits").defaults, control="adaptive", solver="serial")
    with pytest.raises(InputError, match="control is 'adaptive', but the solver is serial; use --solver mgrit"):
        control_of(options, options.layer_solver())


def test_a_probe_leaves_no_trace():
    options = dataclasses.replace(find_recipe("digits").defaults, layers=8, channels=2, batch_size=50, device="cpu")
    trainer = Trainer(find_recipe("digits"), options)
    inputs, labels = trainer.first_batch()
    (layers,) = trainer.problem.propagated
    state, before = torch.get_rng_state(), layers.solver
    serial, inexact = (
        torch.cat([part.flatten() for part in trainer.gradient_with(solver, inputs, labels).gradient])
        for solver in (Serial(), before)
    )
    assert 0 < torch.linalg.vector_norm(inexact - serial) < 0.5 * torch.linalg.vector_norm(serial)
    assert torch.equal(torch.get_rng_state(), state) and layers.solver is before
    assert all(theta.grad is None for theta in trainer.network.parameters())
    penalty = trainer.objective.penalty(trainer.network)
    layers.solver = Serial()
    loss = trainer.problem.loss(trainer.network(inputs), labels) + penalty
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(trainer.network.parameters()))])
    torch.testing.assert_close(serial, exact)


def test_the_error_that_is_noted_is_that_of_the_solver_and_nothing_else_changes(tmp_path: Path):
    rough = {"layers": 16, "levels": 2, "coarsening": (2,), "relaxation": ("F",), "coarse_operator": "rediscretised"}
    runs = [tiny_run(tmp_path / c, control=c, probe_every=3, **rough) for c in ("probe", "fixed")]
    for run in runs:
        train(run)
    probed, fixed = ([r for r in read_records(run.metrics) if r["kind"] == "epoch"] for run in runs)
    assert [r["train_loss"] for r in probed] == [r["train_loss"] for r in fixed]
    errors = [decision["gradient_error"] for record in probed for decision in record["decisions"]]
    trainer = Trainer(runs[0].recipe, runs[0].options)
    inputs, labels, _ = next(trainer.batches.of_epoch(0, 0, trainer.measures.timings))
    serial, inexact = (
        torch.cat([part.flatten() for part in trainer.gradient_with(solver, inputs, labels).gradient])
        for solver in (Serial(), trainer.control.solver)
    )
    assert errors[0] == pytest.approx(float((inexact - serial).norm() / serial.norm()), rel=1e-5)
    assert len(errors) == 3 and min(errors) > 1e-5


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize(
    ("control", "keys"),
    [
        ("probe", {"gradient_error"}),
        ("adaptive", {"ratio", "cycles", "cycles_before"}),
        ("bias-budget", {"bias", "spent", "allowance", "cycles", "cycles_before"}),
    ],
)
def test_decisions_are_in_the_metrics(tmp_path: Path, control: str, keys: set[str]):
    run = tiny_run(tmp_path / "run", control=control, probe_every=3, check_serial=True)
    train(run)
    epochs = read_records(run.metrics)[:-1]
    decisions = [decision for record in epochs for decision in record["decisions"]]
    assert [decision["step"] for decision in decisions] == [0, 3, 6]
    assert all(keys <= decision.keys() for decision in decisions)
    assert all(record["work_units"] > 4 for record in epochs)  # probes are work
    assert all(0 <= record["test_accuracy_serial"] <= 1 for record in epochs)
