"""LayerParallel: a deep network of equal blocks, propagated by MGRIT in both directions."""

import copy
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lpgpu.comm import as_communicator
from lpgpu.mgrit import MGRIT, Solver, SolveResult
from lpgpu.nn.autograd import PropagateEnd, Propagation
from lpgpu.nn.propagators import Layers, layers_of
from lpgpu.nn.schemes import SCHEMES, Step
from lpgpu.nn.solved import Solved
from lpgpu.nn.stacking import layer_weights, stack


class LayerParallel(Solved, nn.Module):
    """u_{k+1} = Φ_k(u_k), k = 0 … N−1, u_0 = x; returns u_N.

    With `form="rhs"` the block is f(u) and Φ_k one step of `scheme` for u′ = f(u) with Δt = Tf/N; with `form="step"`
    the block's forward is (dt, u) and returns the next state. Forward and backward are solved by `solver`: with MGRIT
    both are inexact by a controlled amount (`forward_result`, `adjoint_result`), with Serial exact. Günther et al.,
    "Layer-parallel training of deep residual neural networks", SIAM J. Math. Data Sci. 2 (2020).

    Args:
        comm: None, or an mpi4py communicator whose ranks share the layers.
        block: a callable without arguments that builds one layer's nn.Module. A layer must be a pure function of its
            input that keeps shape, dtype and device, and that `torch.vmap` can batch.
        local_num_steps: the layers of this rank.
        Tf: the final time, > 0.

    Attributes:
        layers: one module like the block, its parameters and buffers stacked, [layers, ...].
        solver: may be assigned between calls.
        forward_result, adjoint_result: the SolveResult of the latest solve of each kind, or None.

    Raises:
        TypeError, ValueError: for arguments that make no network, saying what came and what was expected.
    """

    def __init__(
        self,
        comm: Any,
        block: Callable[[], nn.Module],
        local_num_steps: int,
        Tf: float,
        *,
        scheme: Literal["euler", "midpoint", "rk4"] = "euler",
        form: Literal["rhs", "step"] = "rhs",
        solver: Solver | None = None,
    ) -> None:
        super().__init__()
        self._communicator = as_communicator(comm)
        _check_arguments(local_num_steps, Tf, scheme, form)
        self.num_steps = local_num_steps
        self.Tf = float(Tf)
        self.scheme = scheme
        self.form = form
        self.solver = MGRIT() if solver is None else solver
        self.layers = stack(block, local_num_steps)
        self.forward_result: SolveResult | None = None
        self.adjoint_result: SolveResult | None = None

    @property
    def dt(self) -> float:
        """Δt = Tf / N."""
        return self.Tf / self.num_steps

    def forward(self, x: Tensor) -> Tensor:
        """u_N for u_0 = `x` [batch, ...]; the same shape.

        Raises:
            TypeError, ValueError: for an `x` that is no finite tensor of the parameters' dtype and device, or a block
                that changes its state's shape, dtype or device.
            DivergenceError: when a solve diverges and `solver.on_divergence` is "raise".
        """
        named = dict(self.layers.named_parameters())
        parameters = tuple(named.values())
        _check_input(x, parameters)

        def layers_for(parameters: tuple[Tensor, ...]) -> Layers:
            return layers_of(self.layers, dict(zip(named, parameters, strict=True)), x, self.scheme, self.form)

        propagation = Propagation(
            dt=self.dt,
            num_steps=self.num_steps,
            solver=self.solver,
            communicator=self._communicator,
            forward_done=lambda result: setattr(self, "forward_result", result),
            adjoint_done=lambda result: setattr(self, "adjoint_result", result),
            differentiable=torch.is_grad_enabled(),
        )
        return PropagateEnd.apply(propagation, layers_for, x, *parameters)

    def to_sequential(self) -> nn.Sequential:
        """An independent copy as plain PyTorch, one `Step` per layer: for inspection, deployment, and as an oracle."""
        steps = []
        for layer in range(self.num_steps):
            with layer_weights(self.layers, layer):
                block = copy.deepcopy(self.layers)
            steps.append(Step(block, self.dt, self.scheme, self.form))
        sequential = nn.Sequential(*steps)
        for module in (sequential, *steps):
            module.training = self.training  # not .train(): the blocks keep the modes their copies came with
        return sequential

    def extra_repr(self) -> str:
        step = f"scheme={self.scheme!r}" if self.form == "rhs" else "form='step'"
        return f"num_steps={self.num_steps}, Tf={self.Tf}, {step}, solver={self.solver}"


def _check_arguments(local_num_steps: int, Tf: float, scheme: str, form: str) -> None:
    if isinstance(local_num_steps, bool) or not isinstance(local_num_steps, int):
        raise TypeError(f"local_num_steps is {local_num_steps!r}; expected an integer ≥ 1")
    if local_num_steps < 1:
        raise ValueError(f"local_num_steps is {local_num_steps}; expected at least 1")
    if isinstance(Tf, bool) or not isinstance(Tf, int | float):
        raise TypeError(f"Tf is {Tf!r}; expected a number > 0")
    if not 0 < Tf < math.inf:
        raise ValueError(f"Tf is {Tf}; expected a finite number > 0")
    if scheme not in SCHEMES:
        raise ValueError(f"scheme is {scheme!r}; expected one of {', '.join(map(repr, SCHEMES))}")
    if form not in ("rhs", "step"):
        raise ValueError(f'form is {form!r}; expected "rhs" (the block is f(u)) or "step" (it is Φ(dt, u))')


def _check_input(x: Tensor, parameters: tuple[Tensor, ...]) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x is {type(x).__name__}; expected a tensor [batch, ...]")
    if x.ndim < 1:
        raise ValueError("x has no dimensions; expected [batch, ...]")
    if not x.dtype.is_floating_point:
        raise ValueError(f"x is {x.dtype}; expected floating point, such as x.float()")
    for parameter in parameters[:1]:
        if x.dtype != parameter.dtype:
            raise ValueError(f"x is {x.dtype}, the layers are {parameter.dtype}; convert one of them with .to(...)")
        if x.device != parameter.device:
            raise ValueError(
                f"x is on {x.device}, the layers are on {parameter.device}; move one of them with .to(...)"
            )
    if x.device.type == "cpu" and not torch.isfinite(x).all():
        raise ValueError("x has entries that are NaN or infinite; expected finite numbers")
