"""One epoch of training, and one look at the test set."""

import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from lpgpu import MGRIT, LayerParallel, Serial
from lpgpu.profiling import Timings
from lpgpu.train.errors import TrainingDivergedError
from lpgpu.train.metrics import Record, RunningMean, mean_history
from lpgpu.train.networks import ODEOptions
from lpgpu.train.options import TrainOptions
from lpgpu.train.recipe import Problem, Recipe
from lpgpu.train.regularization import depth_smoothness, tikhonov
from lpgpu.train.solvers import latest_solves, using_solver


class Trainer:
    """A problem on its device, its optimizer, the order of its examples, and the number of epochs behind it."""

    def __init__(self, recipe: Recipe, options: TrainOptions):
        seed_everything(options.seed)
        self.options = options
        self.device = options.torch_device()
        self.problem: Problem = recipe.build(options)
        self.network = self.problem.network.to(self.device)
        self.data = self.problem.dataset.to(self.device)
        for part in self.problem.propagated:
            part.register_forward_pre_hook(_refuse_non_finite)
        self.optimizer = _optimizer(options, self.network)
        self.shuffle = torch.Generator().manual_seed(options.seed)
        self.epoch = 0

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the training set; the last may be smaller."""
        return -(-len(self.data.train_labels) // self.options.batch_size)

    def run_epoch(self, on_step: Callable[[RunningMean], None]) -> Record:
        """Train for one epoch, test, and return what was measured; `on_step` is called after every batch.

        Raises `TrainingDivergedError` when the loss is not finite.
        """
        timings, running = Timings(self.device), RunningMean(self.device)
        solves = []  # their residuals are read only after the last step: on a GPU, reading a residual waits for it
        self.network.train()
        for inputs, labels in self._batches(timings):
            self._step(inputs, labels, timings, running)
            solves.append(latest_solves(self.problem.propagated))
            on_step(running)
        train_loss, train_accuracy = running.values()
        with timings("evaluation"):
            test_loss, test_accuracy = self.evaluate()
        self.epoch += 1
        for group in self.optimizer.param_groups:
            group["lr"] *= self.options.decay
        return {
            "kind": "epoch",
            "epoch": self.epoch,
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            "forward_residuals": mean_history(forward.residual_norms for forward, _ in solves),
            "adjoint_residuals": mean_history(adjoint.residual_norms for _, adjoint in solves),
            "forward_evaluations": solves[-1][0].evaluations,
            "adjoint_evaluations": solves[-1][1].evaluations,
            "forward_depth": solves[-1][0].sequential_depth,
            "adjoint_depth": solves[-1][1].sequential_depth,
            "seconds": timings.seconds(),
        }

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """(loss, accuracy in 0 … 1) on the test set, with the solver the layers have at the moment."""
        running = RunningMean(self.device)
        self.network.eval()
        size = self.options.batch_size
        for inputs, labels in zip(self.data.test_inputs.split(size), self.data.test_labels.split(size), strict=True):
            scores = self.network(inputs)
            running.add(self.problem.loss(scores, labels), scores, labels)
        return running.values()

    def evaluate_with(self, solver: MGRIT | Serial) -> tuple[float, float]:
        """As `evaluate`, propagating with `solver`, such as `Serial()`."""
        with using_solver(self.problem.propagated, solver):
            return self.evaluate()

    def first_batch(self) -> tuple[Tensor, Tensor]:
        """Inputs and labels of the first training examples, in the order of the data set."""
        size = self.options.batch_size
        return self.data.train_inputs[:size], self.data.train_labels[:size]

    def _batches(self, timings: Timings) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.data.train_labels), generator=self.shuffle).to(self.device)
        for chosen in order.split(self.options.batch_size):
            with timings("data"):
                batch = self.data.train_inputs[chosen], self.data.train_labels[chosen]
            yield batch

    def _step(self, inputs: Tensor, labels: Tensor, timings: Timings, running: RunningMean) -> None:
        with timings("forward"):
            scores = self.network(inputs)
            loss = self.problem.loss(scores, labels)
            objective = loss + self._penalty()
        with timings("backward"):
            self.optimizer.zero_grad(set_to_none=True)
            objective.backward()
        with timings("optimizer"):
            self.optimizer.step()
        running.add(loss, scores, labels)

    def _penalty(self) -> Tensor | float:
        options, penalty = self.options, 0.0
        if options.tikhonov:
            penalty += options.tikhonov * tikhonov(self.network.parameters())
        if isinstance(options, ODEOptions) and options.smoothness:
            for part in self.problem.propagated:
                if isinstance(part, LayerParallel):
                    penalty += options.smoothness * depth_smoothness(part.parameters(), part.dt)
        return penalty


def _refuse_non_finite(part: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Call diverged training by its name, before the layers refuse its states as bad input (a GPU never looks)."""
    if inputs[0].device.type == "cpu" and not inputs[0].isfinite().all():
        raise TrainingDivergedError("the states that enter the layers are not finite: try a smaller --learning-rate")


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch, Python and NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # NumPy takes 32 bits


def _optimizer(options: TrainOptions, network: torch.nn.Module) -> torch.optim.Optimizer:
    if options.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), lr=options.learning_rate)
    return torch.optim.SGD(network.parameters(), lr=options.learning_rate, momentum=0.9)
