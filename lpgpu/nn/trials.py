"""Trials: one step of a user's with some solver, forward and backward, that leaves the network as it was.

What a trial puts back: solvers, gradients, buffers such as running statistics, and the states of the random generators,
so that every trial of a step that draws at random (dropout, a batch) sees the same draws.
"""

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from lpgpu.comm import Communicator
from lpgpu.mgrit import DivergenceWarning, Propagator, Solver, SolveResult
from lpgpu.nn.solver_module import solver_modules, using_solver
from lpgpu.nn.watching import ForwardSolve, watching

Step = Callable[[], object]
"""Runs the network forward and backward once, as `lambda: loss(net(x), y).backward()` does, without an optimizer."""


@dataclass
class SolveInTrial:
    """One forward solve of a trial.

    Attributes:
        part: the name of the module that was solved, in `net`.
        walked: how many of its layers were walked one by one beside the solve of `num_steps`.
        states: where kept, u_1 … u_n at this rank's layers, [n, ...], in host memory.
    """

    part: str
    num_steps: int
    walked: int
    communicator: Communicator
    propagator: Propagator
    states: Tensor | None


@dataclass
class Trial:
    """What one step did.

    Attributes:
        gradient: one tensor for each of `net.parameters()`, None where there was none: of several ranks, this one's.
        solves: the forward solves, in the order they were done; `results`: of these and of the adjoint ones.
    """

    gradient: list[Tensor | None] = field(default_factory=list)
    solves: list[SolveInTrial] = field(default_factory=list)
    results: list[SolveResult] = field(default_factory=list)

    @property
    def depth(self) -> int:
        """Sequential depth of all solves, forward and adjoint, one after the other."""
        return sum(result.sequential_depth for result in self.results)

    @property
    def evaluations(self) -> int:
        """This rank's Φ evaluations on all levels."""
        return sum(sum(result.evaluations) for result in self.results)


def attempt(net: nn.Module, step: Step, solver: Solver | None, *, keep_states: bool = False) -> Trial:
    """Run `step()` with `solver` in all parts of `net` (None: each with its own), and put everything back after it.

    A divergence, expected of a trial, is no news: no warning is shown.

    Raises:
        ValueError: when `step()` does not reach `net`, leaves no gradient in it, or changes its weights.
        Exception: what `step()` raises.
    """
    recorder = _Recorder(keep_states)
    versions = [theta._version for theta in net.parameters()]
    with (
        unchanged(net),
        using_solver(solver_modules(net), solver),
        warnings.catch_warnings(),
        torch.enable_grad(),
        recorder.naming(net),
        watching(recorder),
    ):
        warnings.simplefilter("ignore", DivergenceWarning)
        step()
        trial = recorder.trial
        trial.gradient = [theta.grad for theta in net.parameters()]
    if versions != [theta._version for theta in net.parameters()]:
        raise ValueError("step() has changed weights; it must run forward and backward only, without the optimizer")
    if not trial.solves:
        raise ValueError(
            "step() did not run the network: no LayerParallel or recurrent network of `net` was called. It has to "
            "call that same `net`, as in lambda: loss(net(x), y).backward()"
        )
    if all(gradient is None for gradient in trial.gradient):
        raise ValueError("step() left no gradient in the network; it has to call backward() on a loss of its output")
    return trial


class _Recorder:
    """Writes the solves of a step down in its `trial`."""

    def __init__(self, keep_states: bool) -> None:
        self.trial = Trial()
        self.keep_states = keep_states
        self._running: list[str] = []

    @contextmanager
    def naming(self, net: nn.Module) -> Iterator[None]:
        """Know by hooks which part of `net` is running: solves of other networks are not its own."""
        solved = set(map(id, solver_modules(net)))
        with ExitStack() as hooks:
            for name, module in net.named_modules():
                if id(module) in solved:
                    hooks.enter_context(module.register_forward_pre_hook(partial(self._enter, name)))
                    hooks.enter_context(module.register_forward_hook(self._leave, always_call=True))
            yield

    def _enter(self, name: str, module: nn.Module, inputs: object) -> None:
        self._running.append(name)

    def _leave(self, module: nn.Module, inputs: object, outputs: object) -> None:
        self._running.pop()

    def __call__(self, solve: ForwardSolve) -> Callable[[SolveResult], None] | None:
        """Hear of a solve, as `watching` has it."""
        if not self._running:
            return None
        states = solve.states()[1:].detach().to("cpu", copy=True) if self.keep_states else None
        part = self._running[-1]
        self.trial.solves.append(
            SolveInTrial(part, solve.num_steps, solve.walked, solve.communicator, solve.propagator, states)
        )
        self.trial.results.append(solve.result)
        return self.trial.results.append


@contextmanager
def unchanged(net: nn.Module) -> Iterator[None]:
    """Clear the gradients, and after the `with` statement give them, all buffers and the random states back."""
    gradients = [(theta, theta.grad) for theta in net.parameters()]
    devices = {theta.device for theta in net.parameters() if theta.device.type == "cuda"}
    of_python, of_numpy = random.getstate(), np.random.get_state()
    for theta, _ in gradients:
        theta.grad = None
    try:
        with torch.random.fork_rng(devices), keeping_buffers(net):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        for theta, gradient in gradients:
            theta.grad = gradient


@contextmanager
def keeping_buffers(network: nn.Module) -> Iterator[None]:
    """Give all buffers of `network` back their values after the `with` statement."""
    before = [
        (module._buffers, name, buffer, buffer.clone())
        for module in network.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for buffers, name, buffer, value in before:
            buffers[name] = buffer
            buffer.data.copy_(value)  # .data: to a graph that holds the buffer nothing has happened
