"""One epoch of training, and one look at the test set."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lpgpu import (
    MGRIT,
    Serial,
    full_optimizer_state_dict,
    full_state_dict,
    load_full_optimizer_state_dict,
    load_full_state_dict,
)
from lpgpu.nn.gradients import network_norm
from lpgpu.nn.solver_module import solver_modules, using_solver
from lpgpu.nn.tune import Tuning, search
from lpgpu.profiling import nvtx_range
from lpgpu.train.loop.batches import Batches
from lpgpu.train.loop.measures import Measures
from lpgpu.train.loop.objective import Objective
from lpgpu.train.methods.control import Moment
from lpgpu.train.methods.control_choice import control_of
from lpgpu.train.methods.mgopt import mgopt_of
from lpgpu.train.methods.optimizers import optimizer_of_network
from lpgpu.train.methods.solvers import Probe, gradient_probe, latest_solves
from lpgpu.train.runs.metrics import Record, RunningMean
from lpgpu.train.setup.errors import TrainingDivergedError
from lpgpu.train.setup.networks import ODEOptions
from lpgpu.train.setup.options import TrainOptions
from lpgpu.train.setup.recipe import Problem, Recipe
from lpgpu.train.setup.schedulers import check_scheduler, scheduler_of, step_scheduler


class Trainer:
    """A problem on its device, all that trains it, and the epoch under way.

    Attributes:
        level: 0, or which coarser network of nested iteration this is; `depth`: its layers over those of level 0.
        epoch: epochs finished; `measures`: of the one under way.
        around_step: makes the context of each training step.
        between_batches: called after each batch of training or testing; what it raises ends the epoch there, to be
            continued.
    """

    def __init__(self, recipe: Recipe, options: TrainOptions, *, level: int = 0, depth: float = 1.0):
        seed_everything(options.seed)
        self.options, self.level, self.depth = options, level, depth
        self.ranks = options.ranks
        self.device = options.torch_device()
        self.problem: Problem = recipe.build(options)
        self.network = self.problem.network.to(self.device)
        self.data = self.problem.dataset.to(self.device)
        self.batches = Batches(self.data, options)
        self.objective = Objective(self.problem, options, self._timed)
        self.mgopt = mgopt_of(recipe, options, self.network) if isinstance(options, ODEOptions) else None
        for part in self.problem.propagated if self.mgopt is None else solver_modules(*self.mgopt.networks):
            part.register_forward_pre_hook(_refuse_non_finite)
        self.optimizer = self.mgopt or optimizer_of_network(options, self.network)
        name, arguments = options.scheduler, options.scheduler_options
        if options.scheduler_every == "batch":
            check_scheduler(name, arguments, options.epochs * self.steps_per_epoch)
        self.scheduler = None if name == "none" else scheduler_of(name, arguments, self.optimizer)
        self.control = control_of(options, options.layer_solver())
        self.epoch = 0
        self.around_step: Callable[[], AbstractContextManager[object]] = nullcontext
        self.between_batches: Callable[[], object] = lambda: None
        self.measures = Measures(self.device, self.ranks, self.problem.metric)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the training set; the last may be smaller."""
        return len(self.batches)

    def run_epoch(self, on_step: Callable[[RunningMean], None]) -> Record:
        """Train to the end of the epoch, test, and return what was measured; `on_step` is called after every batch.

        Raises `TrainingDivergedError` when the loss is not finite.
        """
        measures = self.measures
        self.network.train()
        for inputs, labels, weight in self.batches.of_epoch(self.epoch, measures.batches, measures.timings):
            with self.around_step(), nvtx_range("train step"):
                self._step(inputs, labels, weight)
            on_step(measures.running)
            self.between_batches()
        with measures.timings("evaluation"):
            loss, figure = self.evaluate()
            serial = self.evaluate_with(Serial()) if self.options.check_serial else None
        test = f"test_{self.problem.metric.key}"
        record = {"test_loss": loss, test: figure, **measures.record()}
        if serial is not None:
            record |= {"test_loss_serial": serial[0], f"{test}_serial": serial[1]}
        record["learning_rate"] = self.learning_rate
        self.epoch += 1
        self._end_epoch(record["train_loss"])
        level = {"level": self.level} if self.level else {}
        return {"kind": "nested" if self.level else "epoch", **level, "epoch": self.epoch, **record}

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """(loss, metric) on the test set, such as accuracy in 0 … 1, with the solver the layers have at the moment."""
        running = RunningMean(self.device, self.problem.metric)
        self.network.eval()
        size = self.options.batch_size
        for inputs, labels in zip(self.data.test_inputs.split(size), self.data.test_labels.split(size), strict=True):
            loss, scores = self.objective.loss(self.network, inputs.to(self.device), labels)
            running.add(loss, scores, labels)
            self.between_batches()
        return running.values()

    def evaluate_with(self, solver: MGRIT | Serial) -> tuple[float, float]:
        """As `evaluate`, propagating with `solver`, such as `Serial()`."""
        with using_solver(self.problem.propagated, solver):
            return self.evaluate()

    def first_batch(self) -> tuple[Tensor, Tensor]:
        """Inputs and labels of the first training examples, in the order of the data set."""
        return self.batches.first()

    def check_finite(self) -> None:
        """Raise `TrainingDivergedError` where the loss or a weight is no longer finite; it waits for the device."""
        self.measures.running.values()
        if not all(theta.isfinite().all() for theta in self.network.parameters()):
            raise TrainingDivergedError("there are weights that are not finite: try a smaller --learning-rate")

    @property
    def learning_rate(self) -> float:
        """α of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """All that changes while it trains, of all ranks. Collective."""
        return {
            "level": self.level,
            "epoch": self.epoch,
            "network": full_state_dict(self.network),
            "optimizer": self._optimizer_state(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "control": self.control.state_dict(),
            "measures": self.measures.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned. Raises RuntimeError, ValueError or KeyError where it does not fit."""
        if state["level"] != self.level:
            raise ValueError(f"it is of level {state['level']} of nested iteration, not of {self.level}")
        load_full_state_dict(self.network, state["network"])
        if self.mgopt is not None:
            self.mgopt.load_state_dict(state["optimizer"])
        else:
            load_full_optimizer_state_dict(self.network, self.optimizer, state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.control.load_state_dict(state["control"])
        self.epoch = state["epoch"]
        self.measures = Measures(self.device, self.ranks, self.problem.metric)
        self.measures.load_state_dict(state["measures"])
        self._use(self.control.solver)

    def gradient_with(self, solver: MGRIT | Serial, inputs: Tensor, labels: Tensor, weight: float = 1.0) -> Probe:
        """The objective's gradient on a batch with `solver`; weights, random state and gradients stay as they are.

        `weight` is that of these examples in the mean over data ranks.
        """
        closure = self.objective.closure(inputs, labels, weight=weight)
        probe = gradient_probe(self.network, solver, lambda: closure(self.network))
        forward, adjoint = map(self.ranks.norms_over_data, (probe.forward, probe.adjoint))
        return replace(probe, forward=forward, adjoint=adjoint)

    def tuned(self, inputs: Tensor, labels: Tensor, weight: float = 1.0, *, progress: bool = False) -> Tuning:
        """What `lpgpu.tune` finds on a batch, by the options; the same on all ranks, of all data ranks too."""
        closure, options = self.objective.closure(inputs, labels, weight=weight), self.options
        try:
            return search(
                self.network,
                lambda: closure(self.network),
                gradient_error=options.gradient_error,
                by=options.tune_by,
                max_tries=options.tune_tries,
                progress=progress,
                communicator=self.ranks.grid.communicator,
            )
        except ValueError as error:  # there is no gradient to compare with
            raise TrainingDivergedError(f"no solver can be tuned: {error}") from error

    def _step(self, inputs: Tensor, labels: Tensor, weight: float) -> None:
        measures = self.measures
        self._control(inputs, labels, weight)
        first: list[Tensor] = []  # loss and scores before the step, whatever else the optimizer evaluates
        closure = self.objective.closure(inputs, labels, first, weight)
        evaluations = [0]

        def counted(network: nn.Module = self.network) -> Tensor:
            evaluations[0] += 1
            return closure(network)

        step: Callable[..., Any] = self.optimizer.step
        with measures.timings("optimizer"):
            if self.mgopt is not None or self.options.optimizer == "lbfgs":
                step(counted)
            else:
                counted()
                step()
        if weight:
            measures.running.add(first[0], first[1], labels)
        measures.add_solves(*latest_solves(self.problem.propagated))
        measures.work += self.depth * (evaluations[0] if self.mgopt is None else self.mgopt.work)
        measures.batches += 1
        if self.scheduler is not None and self.options.scheduler_every == "batch":
            step_scheduler(self.scheduler, lambda: self.ranks.mean_loss(first[0], weight))

    def _control(self, inputs: Tensor, labels: Tensor, weight: float) -> None:
        """Let the iteration control choose the solver of this step."""

        def probe(solver: MGRIT | Serial) -> Probe:
            self.measures.work += self.depth
            return self.gradient_with(solver, inputs, labels, weight)

        steps = self.steps_per_epoch
        moment = Moment(
            step=self.epoch * steps + self.measures.batches,
            steps=self.options.epochs * steps,
            learning_rate=self.learning_rate,
            probe=probe,
            norm=self._norm,
            tune=lambda: self.tuned(inputs, labels, weight).solver,
        )
        decision = self.control.before_step(moment)
        if decision is not None:
            self.measures.decisions.append(decision)
            self._use(self.control.solver)

    def _norm(self, gradient: Sequence[Tensor]) -> float:
        """Of a gradient of the whole network. All ranks take the root's figure, so that they decide alike."""
        norm = network_norm(self.network, gradient)
        return self.ranks.from_root(lambda: float(norm))

    def _optimizer_state(self) -> dict[str, Any]:
        if self.mgopt is not None:
            return self.mgopt.state_dict()
        return full_optimizer_state_dict(self.network, self.optimizer)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        """Time a part of a step; what this rank waits for others in it counts as communication."""
        timings, before = self.measures.timings, self.ranks.seconds_waited
        with timings(part):
            yield
            if not self.ranks.alone:
                timings.count_in("communication", part, self.ranks.seconds_waited - before)

    def _use(self, solver: MGRIT | Serial) -> None:
        for part in self.problem.propagated:
            part.solver = solver

    def _end_epoch(self, train_loss: float) -> None:
        self.measures = Measures(self.device, self.ranks, self.problem.metric)
        if self.scheduler is None:
            for group in self.optimizer.param_groups:
                group["lr"] *= self.options.decay
        elif self.options.scheduler_every == "epoch":
            step_scheduler(self.scheduler, lambda: self.ranks.from_root(lambda: train_loss))


def _refuse_non_finite(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Call diverged training by its name, before the layers refuse its states as bad input (a GPU never looks)."""
    if inputs[0].device.type == "cpu" and not inputs[0].isfinite().all():
        raise TrainingDivergedError("the states that enter the layers are not finite: try a smaller --learning-rate")


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch, Python and NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # NumPy takes 32 bits
