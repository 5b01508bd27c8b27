"""Layers of any block: `torch.func` batches one function over the parameters of many layers."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, nn

from lpgpu.nn.block_precision import lowered
from lpgpu.nn.call import Call
from lpgpu.nn.called import refuse_changed, version
from lpgpu.nn.exclusively import buffers_of, called_with
from lpgpu.nn.frozen_draws import Draws, FrozenDraws, refusing_other_generators
from lpgpu.nn.propagators.extended import HaloOf, extended
from lpgpu.nn.propagators.layers import Layers, Linearisation
from lpgpu.nn.propagators.purity import (
    refuse_captured,
    refusing_checkpoints,
    refusing_kept_tensors,
    without_fast_path,
)
from lpgpu.nn.schemes import StepRule
from lpgpu.nn.statistics import cumulated, cumulative_averages, of_the_batch_alone, running_statistics

Named = dict[str, Tensor]

Phi = Callable[[Named, Named, Sequence[Tensor], float, int, Tensor], Tensor]
"""(θ_k, constants of the layer, shared tensors, Δt, layers that it spans, u) → Φ_k(u), of one layer."""

_VMAP_REFUSAL = ("vmap", "functorch", "torch.func", "Batching rule", "data pointer")
_IN_PLACE = (
    "the block changes its input in place. A solve visits a state several times, so a block must leave it as it is: "
    "take inplace=False, or begin the block with x = x.clone()"
)
_PURE = (
    "A block must be a pure function of its input: write data-dependent branches with torch.where, keep values as "
    "tensors (no .item(), no .numpy()), draw random tensors like the state (torch.randn_like(u), not "
    "torch.empty(3).normal_()), use GroupNorm or LayerNorm instead of BatchNorm, freeze what changes its own buffers "
    "(spectral_norm) by .eval() of that part after every net.train()"
)
_LSTM_CELL = (
    "torch has no batched nn.LSTMCell: write its formula in your cell, with linear layers and chunk(4, -1); an "
    "nn.LSTMCell that is the cell itself, Recurrent(nn.LSTMCell(...)), needs nothing"
)


class FunctionalLayers(Layers):
    """u_{k+1} = `phi`(θ_k, c_k, s, Δt, spans, u_k), under `torch.func.vmap`.

    `parameters` θ and `constants` c are [layers, ...]; `shared` tensors s are the same for all layers, and their
    gradients are summed over the layers. `dt` is Δt, over `spans` layers of the network: 1 on the finest level. `draws`
    are the call's random draws (None: there may be none), and `first` is which layer of the network the first one is.
    """

    preferred = ("picard", 1)  # docs/experiments/coarse_operators.md
    spans = 1
    watched: Callable[[], AbstractContextManager[None]] = nullcontext  # around every evaluation
    statistics: Callable[..., Named] | None = None  # the new running statistics of a layer, of phi's arguments
    cumulative: Mapping[str, Any] = MappingProxyType({})  # of which parts they are to be cumulative averages

    def __init__(
        self,
        phi: Phi,
        parameters: Named,
        constants: Named,
        shared: Sequence[Tensor] = (),
        *,
        dt: float = 1.0,
        draws: Draws | None = None,
        first: int = 0,
    ) -> None:
        self.phi = phi
        self.parameters = parameters
        self.constants = constants
        self.shared = shared
        self.dt = dt
        self.num_shared = len(shared)
        self.draws = draws
        self.first = first
        self._number_of_draws: int | None = None  # of an evaluation; unknown before the first

    def hold(self) -> None:
        self.parameters = {name: _held(values) for name, values in self.parameters.items()}
        self.shared = [_held(tensor) for tensor in self.shared]

    def coarsened(self, m: int) -> Self:
        coarse = super().coarsened(m)
        coarse.spans = m * self.spans
        coarse._number_of_draws = None  # a coarse step may be another function
        return coarse

    def take_halo(self, halo_of: HaloOf) -> None:
        self.parameters = {name: extended(values, halo_of) for name, values in self.parameters.items()}
        self.constants = {name: extended(values, halo_of) for name, values in self.constants.items()}

    def advance(
        self,
        layers: slice,
        u: Tensor,
        out: Tensor,
        *,
        keep: bool = False,
        diagonal: Tensor | None = None,
        decay: Tensor | None = None,
    ) -> None:
        if self.to_be_checked and len(u):  # once a call, at the price of recording a single layer's step
            self.to_be_checked = False
            self.linearise(slice(layers.start, layers.start + 1), u[:1])
        for part, rows in self.parts(layers):
            out[rows] = self._batched(_sliced(self.parameters, part), part, self.shared, u[rows])

    def linearise(self, layers: slice, u: Tensor, kept: None = None) -> "_Graph":
        return self.recorded(layers, u)

    def recorded(self, layers: slice, u: Tensor, *, of_states_only: bool = False, once: bool = False) -> "_Graph":
        """Autograd's graph of one step, which keeps nothing for parameters (`of_states_only`), or is walked `once`."""

        def leaf(values: Tensor, like: Tensor) -> Tensor:
            return values.detach().requires_grad_(like.requires_grad and not of_states_only)

        sliced = _sliced(self.parameters, layers)
        theta = {name: leaf(values, self.parameters[name]) for name, values in sliced.items()}
        shared = [leaf(tensor, tensor) for tensor in self.shared]
        u = u.detach().requires_grad_()
        with torch.enable_grad():
            out = self._batched(theta, layers, shared, u)
        refuse_captured(out, (u, *theta.values(), *shared))
        return _Graph(u, [*theta.values(), *shared], out, once=once)

    def linearise_once(self, layers: slice, u: Tensor) -> Linearisation:
        return _Recomputed(self, layers, u)

    def differentiable(self, layers: slice, u: Tensor) -> Tensor:
        """Φ_k(u_k) of K layers, [K, ...], for autograd to differentiate in all tensors, as often as wanted."""
        return self._batched(_sliced(self.parameters, layers), layers, self.shared, u)

    @property
    def keeps_statistics(self) -> bool:
        return self.statistics is not None

    def update_statistics(self, layers: slice, u: Tensor) -> None:
        def after(theta: Named, constants: Named, u: Tensor) -> Any:
            return self.statistics(theta, constants, self.shared, self.dt, self.spans, u)  # pyright: ignore

        u, parameters, constants = _dense(u), _sliced(self.parameters, layers), _sliced(self.constants, layers)
        found = self._with_draws(layers, after, parameters, constants, u)
        cumulated(constants, found, self.cumulative)
        for name, values in found.items():
            self.constants[name][layers].copy_(values)  # a view: these layers are this rank's own

    def _batched(self, theta: Named, layers: slice, shared: Sequence[Tensor], u: Tensor) -> Tensor:
        """Φ_k(u_k) of all K layers, checked to leave states and buffers as they are."""
        u = _dense(u)

        def phi(theta: Named, constants: Named, u: Tensor) -> Tensor:
            return self.phi(theta, constants, shared, self.dt, self.spans, u)

        versions = {name: version(buffer) for name, buffer in self.constants.items()}
        version_of_u = version(u)
        with self.watched():
            out = self._with_draws(layers, phi, theta, _sliced(self.constants, layers), u)
        if version(u) != version_of_u:
            raise RuntimeError(_IN_PLACE)
        changed = [name for name, buffer in self.constants.items() if version(buffer) != versions[name]]
        refuse_changed(changed)
        if out.dtype != u.dtype:
            came, expected = out.dtype, u.dtype
            raise ValueError(f"the block changes the state's dtype from {expected} to {came}; every layer must keep it")
        return out

    def _with_draws(self, layers: slice, phi: Callable[..., Any], *arguments: Any) -> Any:
        """`phi` of all K layers, with its random draws frozen; if the first evaluation draws none, no later one may."""
        if self.draws is None or self._number_of_draws == 0:
            return _vmapped(phi, "error", *arguments)
        is_first = self._number_of_draws is None
        others = refusing_other_generators() if is_first else nullcontext()
        u = arguments[-1]
        index = self.first + layers.start + (layers.step or 1) * torch.arange(len(u), device=u.device)
        with FrozenDraws(self.draws, index) as mode, others:
            out = _vmapped(phi, "different", *arguments)
        self._number_of_draws = mode.number
        return out


def general_layers_of(
    block: nn.Module, parameters: Named, x: Tensor, scheme: str, form: str, dt: float, call: Call | None = None
) -> FunctionalLayers:
    """The layers of any `block`, whatever kernels it has; arguments as for `layers_of`."""
    call = call or Call()
    rule, arguments = StepRule.of(block, form, scheme), call.arguments
    buffers = _sliced(buffers_of(block), call.rows)
    per_layer = {f"{_ARGUMENT}{i}": values for i, values in enumerate(arguments.per_layer)}
    times = {_TIME: call.times(dt, x)} if rule.timed else {}
    statistics, cumulative = running_statistics(block), cumulative_averages(block)

    def both(
        theta: Named, constants: Named, shared: Sequence[Tensor], dt: float, spans: int, u: Tensor
    ) -> tuple[Tensor, Named]:
        """Φ_k(u_k), and the running statistics after it."""
        after = {name: constants[name].clone() for name in statistics}
        own = {name: theta[name] for name in parameters} | {name: constants[name] for name in buffers} | after
        args, kwargs = arguments.built(shared, [theta[name] for name in per_layer])

        def of_layer(*leading: Any) -> Tensor:
            *before, u = leading
            compute = lowered(partial(called_with, block, own), call.block_dtype or call.autocast, u)
            with of_the_batch_alone(block, cumulative):
                out = compute((*before, call.opened(u), *args), kwargs)
            return call.closed(out, u, may_have_more=form == "residual")

        return rule.next_state(of_layer, constants.get(_TIME, 0.0), dt, spans, u), after

    layers = FunctionalLayers(
        lambda *arguments: both(*arguments)[0],
        parameters | per_layer,
        buffers | times,
        arguments.shared,
        dt=dt,
        draws=call.draws,
        first=call.layers.start,
    )
    if any(part._forward_hooks for part in block.modules()):
        layers.watched = partial(refusing_kept_tensors, block)
    if statistics:
        layers.statistics, layers.cumulative = lambda *arguments: both(*arguments)[1], cumulative
    return layers


_TIME, _ARGUMENT = ".t", ".argument"  # no parameter or buffer of a module is called so


class _Graph(Linearisation):
    """Autograd's graph of one batched step; every λ walks it again, but where it is walked `once`."""

    def __init__(self, u: Tensor, theta: list[Tensor], out: Tensor, *, once: bool) -> None:
        self.u = u
        self.theta = theta
        self.out = out
        self.once = once

    def vjp(self, lam: Tensor, out: Tensor) -> None:
        out.copy_(self._pull_back(lam, [self.u])[0])

    def parameter_gradients(self, lam: Tensor) -> Sequence[Tensor | None]:
        wanted = [theta for theta in self.theta if theta.requires_grad]
        gradients = iter(self._pull_back(lam, wanted) if wanted else ())
        return [next(gradients) if theta.requires_grad else None for theta in self.theta]

    def _pull_back(self, lam: Tensor, inputs: list[Tensor]) -> Sequence[Tensor]:
        if not self.out.requires_grad:
            return [torch.zeros_like(each) for each in inputs]
        options = {"retain_graph": not self.once, "allow_unused": True, "materialize_grads": True}
        with refusing_checkpoints():
            return torch.autograd.grad(self.out, inputs, lam, **options)


class _Recomputed(Linearisation):
    """Linearised anew, a few layers at a time, for every λ: no graph outlives its use."""

    def __init__(self, stack: FunctionalLayers, layers: slice, u: Tensor) -> None:
        self.stack = stack
        self.layers = layers
        self.u = u

    def vjp(self, lam: Tensor, out: Tensor) -> None:
        for part, rows in self.stack.parts(self.layers):
            self.stack.recorded(part, self.u[rows], of_states_only=True, once=True).vjp(lam[rows], out[rows])

    def parameter_gradients(self, lam: Tensor) -> Sequence[Tensor | None]:
        return self.stack.recorded(self.layers, self.u, once=True).parameter_gradients(lam)


def _held(tensor: Tensor) -> Tensor:
    if tensor.is_inference():  # no gradient can be wanted of it
        return tensor.detach()
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _dense(u: Tensor) -> Tensor:
    """States [K, batch, ...], contiguous for a batch of 1: under vmap GroupNorm refuses every m-th of such states."""
    return u.contiguous() if u.shape[1] == 1 else u


def _sliced(named: Named, layers: slice) -> Named:
    return {name: values[layers] for name, values in named.items()}


def _vmapped(phi: Callable[..., Any], randomness: str, *arguments) -> Any:
    try:
        with refusing_checkpoints(), without_fast_path():
            return torch.vmap(phi, randomness=randomness)(*arguments)
    except RuntimeError as error:
        if "leaf Variable" in str(error) and "in-place" in str(error):
            raise RuntimeError(_IN_PLACE) from error
        if not any(word in str(error) for word in _VMAP_REFUSAL):
            raise
        hint = _LSTM_CELL if "aten::lstm_cell" in str(error) else _PURE
        raise RuntimeError(f"torch.vmap cannot batch this block over the layers: {error}\n{hint}") from error
