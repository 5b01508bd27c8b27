"""verify: how far a network's inexact propagation is from the exact one, on a step of the user's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lpgpu.comm import Communicator, SingleProcess
from lpgpu.mgrit import Serial
from lpgpu.nn.layer_parallel import LayerParallel
from lpgpu.nn.solver_module import SolverModule, solver_modules
from lpgpu.nn.trials import SolveInTrial, Step, Trial, attempt


@dataclass(frozen=True)
class SolveErrors:
    """Relative errors of one solve of the step: of a LayerParallel's call, or of one layer of a recurrent network.

    Attributes:
        part: the name of the module in the network.
        states: of u_1 … u_N together; `output`: of u_N.
        layer_states: of u_1, …, u_N each, where asked for; `layer_gradients`: of the gradients of each layer's
            parameters, of a LayerParallel, where asked for.

    >>> net = LayerParallel(None, lambda: nn.Linear(8, 8), 64, 1.0)
    >>> found = verify(net, lambda: net(torch.ones(2, 8)).sum().backward())
    >>> [(errors.part, errors.output < 0.01) for errors in found.solves]
    [('', True)]
    """

    part: str
    states: float
    output: float
    layer_states: tuple[float, ...] | None = None
    layer_gradients: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Verification:
    """Relative errors ‖inexact − exact‖₂ / ‖exact‖₂ of one step.

    Attributes:
        states: of all states of all solves; `output`: of the last state of each.
        gradient: of the whole gradient, all parameters in one vector.
        worst, worst_parameter: of the parameter tensor that is off most, and its name.
        depth, exact_depth: sequential depth of all solves, forward and adjoint, and that of exact propagation.
        solves: the errors of each solve, in order.

    >>> net = LayerParallel(None, lambda: nn.Linear(8, 8), 64, 1.0)
    >>> found = verify(net, lambda: net(torch.ones(2, 8)).sum().backward())
    >>> found.gradient < 0.1, found.depth < found.exact_depth
    (True, True)
    """

    states: float
    output: float
    gradient: float
    worst: float
    worst_parameter: str
    depth: int
    exact_depth: int
    solves: tuple[SolveErrors, ...]

    def __repr__(self) -> str:
        return (
            f"Verification(states off by {self.states:.1e}, output by {self.output:.1e}, gradient by "
            f"{self.gradient:.1e} (most {self.worst_parameter}: {self.worst:.1e}), at depth {self.depth} of "
            f"{self.exact_depth})"
        )


def verify(net: nn.Module, step: Step, *, layers: bool = False) -> Verification:
    """Errors of the states, the output and the gradient of `net` on a step, against exact propagation.

    `step()` runs `net` forward and backward once: lambda: loss(net(x), y).backward(). It is called twice, with the
    solvers that `net` has and with `Serial()`. Gradients, buffers (running statistics) and the states of the random
    generators are put back, so that both calls see the same draws. All of `net`'s states are kept in host memory once.
    Where ranks share the network every rank calls, and gets the same figures.

    >>> net = LayerParallel(None, lambda: nn.Linear(4, 4), 64, Tf=1.0)
    >>> x = torch.randn(8, 4)
    >>> verify(net, lambda: net(x).square().mean().backward()).gradient < 0.05
    True

    Args:
        net: holds one or several LayerParallel or recurrent networks (GRU, LSTM, Recurrent), or is one.
        layers: whether the errors of every layer are wanted too.

    Raises:
        TypeError: for a `net` that is no module, or a `step` that cannot be called.
        ValueError: when `net` holds nothing that is solved, `step()` does not run it, leaves no gradient in it or
            changes its weights, or exact propagation gives no finite numbers, or no gradient but zero.
        Exception: what `step()` raises.
    """
    check_arguments(net, step)
    exact = exact_trial(net, step)
    trial = attempt(net, step, None, keep_states=True)
    return compared(net, exact, trial, layers=layers)


def check_arguments(net: nn.Module, step: Step) -> None:
    """Raise TypeError or ValueError for what cannot be verified."""
    if not isinstance(net, nn.Module):
        raise TypeError(f"net is {type(net).__name__}; expected an nn.Module with LayerParallel or GRU inside")
    if not callable(step):
        raise TypeError(
            f"step is {type(step).__name__}; expected a function without arguments that runs forward and backward, "
            "such as lambda: loss(net(x), y).backward()"
        )
    if not solver_modules(net):
        raise ValueError(f"net ({type(net).__name__}) holds no LayerParallel, GRU or LSTM: nothing is solved")


def exact_trial(net: nn.Module, step: Step, *, keep_states: bool = True) -> Trial:
    """The step with exact propagation. Raises ValueError where it has no finite states and gradient, or a zero one."""
    exact = attempt(net, step, Serial(), keep_states=keep_states)
    of_gradient = [_square(gradient) for gradient in exact.gradient if gradient is not None]
    of_states = [_square(solve.states) for solve in exact.solves if solve.states is not None]
    finite = all(map(math.isfinite, of_gradient + of_states))
    of_ranks = communicator_of(net).allgather((finite, sum(of_gradient) > 0))
    if not all(finite for finite, _ in of_ranks):
        raise ValueError(
            "exact propagation gives states or gradients that are not finite (NaN or infinite), so there is nothing to "
            "compare with; look at the input, the weights and the loss"
        )
    if not any(some for _, some in of_ranks):
        raise ValueError("the exact gradient is zero everywhere; give a step whose loss depends on the network")
    return exact


def compared(net: nn.Module, exact: Trial, trial: Trial, *, layers: bool = False) -> Verification:
    """The errors of `trial`. Collective where ranks share the network.

    Raises:
        ValueError: when the two did not make the same solves.
    """
    made = [[(solve.part, solve.num_steps) for solve in one.solves] for one in (exact, trial)]
    if made[0] != made[1]:
        raise ValueError(f"step() did not do the same twice: it solved {made[0]}, then {made[1]}")
    names = [name for name, _ in net.named_parameters()]
    gradients = _gradient_squares(net, trial.gradient, exact.gradient)
    errors = [_relative(off, of) for off, of in gradients.tolist()]
    worst = max(range(len(names)), key=lambda i: (math.isnan(errors[i]), errors[i]))
    squares = [_state_squares(a, b) for a, b in zip(trial.solves, exact.solves, strict=True)]
    return Verification(
        states=_relative(*_total(squares)),
        output=_relative(*_total([each[-1:] for each in squares])),
        gradient=_relative(*gradients.sum(0).tolist()),
        worst=errors[worst],
        worst_parameter=names[worst],
        depth=trial.depth,
        exact_depth=exact.depth,
        solves=tuple(
            SolveErrors(
                solve.part,
                _relative(*_total([each])),
                _relative(*each[-1].tolist()),
                tuple(_relative(off, of) for off, of in each.tolist()) if layers else None,
                _layer_gradients(net, solve.part, trial, exact) if layers else None,
            )
            for solve, each in zip(exact.solves, squares, strict=True)
        ),
    )


def gradient_error_of(net: nn.Module, trial: Trial, exact: Trial) -> float:
    """Relative error of the whole gradient, the same on every rank. Collective where ranks share the network."""
    return _relative(*_gradient_squares(net, trial.gradient, exact.gradient).sum(0).tolist())


def communicator_of(net: nn.Module) -> Communicator:
    """That of the most ranks among the solved parts of `net`."""
    communicators = [part._communicator for part in solver_modules(net)]
    return max(communicators, key=lambda communicator: communicator.size, default=SingleProcess())


def _state_squares(trial: SolveInTrial, exact: SolveInTrial) -> Tensor:
    """‖u_k − exact‖² and ‖exact‖² of every layer of all ranks, [N, 2], in marching order."""
    if trial.states is None or exact.states is None:
        raise RuntimeError("the states of a trial were not kept")
    here = torch.stack([_squares(trial.states - exact.states), _squares(exact.states)], -1)
    return torch.cat(exact.communicator.allgather(here))


def _gradient_squares(net: nn.Module, trial: Sequence[Tensor | None], exact: Sequence[Tensor | None]) -> Tensor:
    """‖g̃ − g‖² and ‖g‖² of every parameter, [parameters, 2], of all ranks, the same on each."""
    here = {id(theta): _pair(a, b) for theta, a, b in zip(net.parameters(), trial, exact, strict=True)}
    together = communicator_of(net).broadcast(torch.stack(list(here.values())), 0)
    squares = dict(zip(here, together, strict=True))
    for part in net.modules():
        if isinstance(part, LayerParallel) and part.is_shared:  # each rank has its own layers
            own = [id(theta) for theta in part.layers.parameters()]
            squares |= zip(own, part.sum_over_ranks(torch.stack([here[key] for key in own])), strict=True)
    return torch.stack([squares[id(theta)] for theta in net.parameters()])


def _layer_gradients(net: nn.Module, name: str, trial: Trial, exact: Trial) -> tuple[float, ...] | None:
    """The relative error of the gradient of each layer's parameters, of a LayerParallel that has any."""
    part: nn.Module | SolverModule = net.get_submodule(name)
    if not isinstance(part, LayerParallel):
        return None
    where = {id(theta): i for i, theta in enumerate(net.parameters())}
    squares = torch.zeros(part.local_num_steps, 2, dtype=torch.float64)
    for i in (where[id(theta)] for theta in part.layers.parameters()):
        a, b = trial.gradient[i], exact.gradient[i]
        if b is not None:
            off = b if a is None else a - b
            squares += torch.stack([_squares(off.cpu()), _squares(b.cpu())], -1)
    return tuple(_relative(off, of) for off, of in part.of_all_ranks(squares).tolist())


def _pair(a: Tensor | None, b: Tensor | None) -> Tensor:
    """‖a − b‖² and ‖b‖², where None is zero."""
    off = a if b is None else b if a is None else a - b
    return torch.tensor([0.0 if off is None else _square(off), 0.0 if b is None else _square(b)], dtype=torch.float64)


def _squares(x: Tensor) -> Tensor:
    """‖x_k‖² for every k, in fp64."""
    return x.flatten(1).to(torch.float64).square().sum(1)


def _square(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) ** 2


def _total(squares: Sequence[Tensor]) -> tuple[float, float]:
    off, of = torch.cat(list(squares)).sum(0).tolist()
    return off, of


def _relative(off: float, of: float) -> float:
    """√(off / of); 0 where both are zero."""
    if off == 0:
        return 0.0
    return math.sqrt(off / of) if of > 0 else math.inf
