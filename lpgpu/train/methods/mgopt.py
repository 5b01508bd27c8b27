"""MG/OPT: multigrid on the optimisation, over the depth of the network (S. Nash 2000; von Planta et al. 2021).

One cycle from x_h on level h, the coarse network being that of every m-th layer:

    smooth:      x_h ← a step of the smoother with ∇f_h − v_h,  v of the finest level being 0
    restrict:    x_H = R x_h,   v_H = ∇f_H(x_H) − Pᵀ(∇f_h(x_h) − v_h)
    recursion:   decrease f_H(x) − ⟨v_H, x⟩ from x_H, whose gradient there is exactly Pᵀ(∇f_h − v_h); it ends in y_H
    correct:     x_h ← x_h + α P(y_H − x_H),  α = 1, ½, ¼, … until f falls by c α |⟨∇f_h − v_h, P(y_H − x_H)⟩| (Armijo)
    smooth once more

The smoother is any optimizer of PyTorch. Its momentum, a mean of gradients, goes down as they do, with Pᵀ, and comes
back as the weights do: what the coarse level changed, times α, scaled by Δt_h/Δt_H.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lpgpu import LayerParallel, full_optimizer_state_dict, load_full_optimizer_state_dict
from lpgpu.nn.gradients import network_dot
from lpgpu.train.methods.optimizers import optimizer_of
from lpgpu.train.methods.transfer import Interpolation, Tensors, Transfer, check_transfer, coarse_layers
from lpgpu.train.setup.errors import InputError
from lpgpu.train.setup.networks import ODEOptions
from lpgpu.train.setup.recipe import Recipe

MOMENTUM = ("momentum_buffer", "exp_avg")

Closure = Callable[[nn.Module], Tensor]


class MGOPT(torch.optim.Optimizer):
    """MG/OPT on networks of one kind, finest first, each with ⌈N/m⌉ of the layers of the one before.

    >>> def network(layers: int) -> nn.Module:
    ...     return nn.Sequential(LayerParallel(None, lambda: nn.Linear(4, 4), layers, 1.0), nn.Linear(4, 2))
    >>> fine, x, y = network(8), torch.randn(16, 4), torch.randint(2, (16,))
    >>> optimizer = MGOPT([fine, network(4)], lambda groups: torch.optim.SGD(groups, lr=0.1))
    >>> def objective(network: nn.Module) -> Tensor:
    ...     network.zero_grad()
    ...     loss = nn.functional.cross_entropy(network(x), y)
    ...     if torch.is_grad_enabled():
    ...         loss.backward()
    ...     return loss
    >>> before = optimizer.step(objective)
    >>> bool(objective(fine) < before)
    True

    Args:
        networks: the first is trained; the others are scratch, and may start from any weights.
        smoother: parameter groups → optimizer; called once per level. Where it is SGD, the coarse layers' step sizes
            are smaller by Δt_h/Δt_H, as their gradients are larger.
        before, after: smoothing steps before and after the coarse correction; `coarsest`: those on the coarsest level.
        armijo: c; `backtracks`: halvings of α, after which the correction is dropped.

    Attributes:
        gradients, values: of every level, how many gradients, and objectives alone, the latest step has evaluated.
        alphas: of every level but the coarsest, α of its latest correction; 0 where it was dropped.

    Raises:
        TypeError: for a `coarsening` that is no integer.
        ValueError: for networks that do not follow each other or have no `LayerParallel`, numbers of steps below 0, a
            `coarsening` below 2, or a `transfer` that there is not.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        smoother: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
        *,
        coarsening: int = 2,
        transfer: Interpolation = "constant",
        before: int = 1,
        after: int = 1,
        coarsest: int = 4,
        armijo: float = 1e-4,
        backtracks: int = 6,
    ) -> None:
        if len(networks) < 2 or min(before, after) < 0 or coarsest < 1:
            raise ValueError(
                f"{len(networks)} networks, before={before}, after={after}, coarsest={coarsest}; expected two networks "
                "or more, before and after ≥ 0, and coarsest ≥ 1"
            )
        check_transfer(coarsening, transfer, "transfer")
        self.networks = list(networks)
        self.transfers = [
            Transfer(*pair, coarsening, transfer) for pair in zip(self.networks, self.networks[1:], strict=False)
        ]
        stacked = self.transfers[0].stacked
        self.smoothers = [smoother(_groups(network, stacked)) for network in self.networks]
        super().__init__(self.smoothers[0].param_groups, {})
        self.smoothers[0].param_groups = self.param_groups
        self.before, self.after, self.coarsest = before, after, coarsest
        self.armijo, self.backtracks = armijo, backtracks
        self.gradients, self.values = [0] * len(networks), [0] * len(networks)
        self.alphas = [0.0] * len(self.transfers)

    @property
    def work(self) -> float:
        """Gradients of the finest network that the latest step was worth; an objective alone is half of one."""
        parts = [[part for part in net.modules() if isinstance(part, LayerParallel)] for net in self.networks]
        layers = [sum(part.num_steps for part in of_level) for of_level in parts]
        counts = zip(self.gradients, self.values, layers, strict=True)
        return sum((gradients + 0.5 * values) * n / layers[0] for gradients, values, n in counts)

    @torch.no_grad()
    def step(self, closure: Closure) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One V-cycle; returns the objective before it.

        `closure(network)` returns the objective of a level's network and, where gradients are enabled, leaves its
        gradient in the network's parameters (clear them first). Where several ranks share the layers all step together,
        and each objective is that of the whole network, the same on every rank.
        """
        self.gradients, self.values = [0] * len(self.networks), [0] * len(self.networks)
        self._follow_learning_rate()
        value, gradient = self._gradient(closure, 0, None)
        self._cycle(closure, 0, None, value, gradient)
        return value

    def state_dict(self) -> dict[str, Any]:
        """The states of all levels' smoothers, of all ranks."""
        levels = zip(self.networks, self.smoothers, strict=True)
        return {"smoothers": [full_optimizer_state_dict(network, smoother) for network, smoother in levels]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        for network, smoother, state in zip(self.networks, self.smoothers, state_dict["smoothers"], strict=True):
            load_full_optimizer_state_dict(network, smoother, state)
        self.param_groups = self.smoothers[0].param_groups

    def coarse_problem(self, closure: Closure, level: int, gradient: Tensors) -> tuple[Tensor, Tensors]:
        """Inject the weights of `level` and return the objective of the coarser one there, less ⟨v_H, x_H⟩, and v_H.

        `gradient`: ∇f_h − v_h.
        """
        transfer, coarse = self.transfers[level], self.networks[level + 1]
        _assign(coarse, transfer.inject(_weights(self.networks[level])))
        value, coarse_gradient = self._gradient(closure, level + 1, None)
        v = [a - b for a, b in zip(coarse_gradient, transfer.restrict(gradient), strict=True)]
        return value - network_dot(coarse, v, _weights(coarse)), v

    def _cycle(self, closure: Closure, level: int, v: Tensors | None, value: Tensor, gradient: Tensors) -> None:
        """One cycle; `value` and `gradient` are those of f − ⟨v, x⟩ where it begins."""
        coarsest = level == len(self.networks) - 1
        for step in range(self.coarsest if coarsest else self.before):
            if step > 0:
                value, gradient = self._gradient(closure, level, v)
            self._smooth(level, gradient)
        if coarsest:
            return
        if self.before:
            value, gradient = self._gradient(closure, level, v)
        self._correct(closure, level, v, value, gradient)
        for _ in range(self.after):
            self._smooth(level, self._gradient(closure, level, v)[1])

    def _correct(self, closure: Closure, level: int, v: Tensors | None, value: Tensor, gradient: Tensors) -> None:
        transfer, coarse = self.transfers[level], self.networks[level + 1]
        coarse_value, coarse_v = self.coarse_problem(closure, level, gradient)
        start, momentum = _copies(_weights(coarse)), self._restrict_momentum(level)
        self._cycle(closure, level + 1, coarse_v, coarse_value, transfer.restrict(gradient))
        direction = transfer.prolong([y - x for y, x in zip(_weights(coarse), start, strict=True)])
        self.alphas[level] = self._line_search(closure, level, v, value, gradient, direction)
        self._prolong_momentum(level, momentum, self.alphas[level])

    def _line_search(
        self, closure: Closure, level: int, v: Tensors | None, value: Tensor, gradient: Tensors, direction: Tensors
    ) -> float:
        """Move along `direction` by Armijo's rule and return α; 0, and no move, where it is none of descent."""
        network = self.networks[level]
        start, slope, alpha = _copies(_weights(network)), network_dot(network, gradient, direction), 1.0
        for _ in range(self.backtracks if slope < 0 else 0):
            _assign(network, [x + alpha * e for x, e in zip(start, direction, strict=True)])
            if self._value(closure, level, v) <= value + self.armijo * alpha * slope:
                return alpha
            alpha /= 2
        _assign(network, start)
        return 0.0

    def _gradient(self, closure: Closure, level: int, v: Tensors | None) -> tuple[Tensor, Tensors]:
        """f − ⟨v, x⟩ and its gradient on `level`."""
        network = self.networks[level]
        self.gradients[level] += 1
        with torch.enable_grad():
            value = closure(network).detach()
        if all(x.grad is None for x in network.parameters()):
            raise RuntimeError("closure(network) left no gradient in the network; it has to call backward()")
        gradient = [torch.zeros_like(x) if x.grad is None else x.grad.clone() for x in network.parameters()]
        if v is None:
            return value, gradient
        return value - network_dot(network, v, _weights(network)), [g - w for g, w in zip(gradient, v, strict=True)]

    def _value(self, closure: Closure, level: int, v: Tensors | None) -> Tensor:
        self.values[level] += 1
        network = self.networks[level]
        value = closure(network)
        return value if v is None else value - network_dot(network, v, _weights(network))

    def _smooth(self, level: int, gradient: Tensors) -> None:
        for x, g in zip(self.networks[level].parameters(), gradient, strict=True):
            x.grad = g
        self.smoothers[level].step()

    def _follow_learning_rate(self) -> None:
        """Coarse levels follow a scheduler's learning rate, which it sets on the finest."""
        for level, smoother in enumerate(self.smoothers[1:]):
            scale = self.transfers[level].ratio if isinstance(smoother, torch.optim.SGD) else 1.0
            finer = self.smoothers[level].param_groups
            for group, of_finer, factor in zip(smoother.param_groups, finer, (scale, 1.0), strict=True):
                group["lr"] = factor * of_finer["lr"]

    def _momentum(self, level: int) -> dict[str, Tensors]:
        """The smoother's moments by name, where it has made a step."""
        state, parameters = self.smoothers[level].state, list(self.networks[level].parameters())
        there = [name for name in MOMENTUM if all(state.get(x, {}).get(name) is not None for x in parameters)]
        return {name: [state[x][name] for x in parameters] for name in there}

    def _restrict_momentum(self, level: int) -> dict[str, Tensors]:
        """Give the coarse smoother Pᵀ times the momentum of `level`; returns copies of it."""
        fine, coarse = self._momentum(level), self._momentum(level + 1)
        given = {name: self.transfers[level].restrict(fine[name]) for name in coarse if name in fine}
        for name, values in given.items():
            for buffer, value in zip(coarse[name], values, strict=True):
                buffer.copy_(value)
        return {name: _copies(values) for name, values in given.items()}

    def _prolong_momentum(self, level: int, start: dict[str, Tensors], alpha: float) -> None:
        fine, coarse, transfer = self._momentum(level), self._momentum(level + 1), self.transfers[level]
        for name, before in start.items():
            change = transfer.prolong([b - a for a, b in zip(before, coarse[name], strict=True)])
            for buffer, d, stacked in zip(fine[name], change, transfer.stacked, strict=True):
                buffer.add_(d, alpha=alpha * (transfer.ratio if stacked else 1.0))


def mgopt_of(recipe: Recipe, options: ODEOptions, network: nn.Module) -> MGOPT | None:
    """MG/OPT on `network` and as many coarser ones as the options say; None for none.

    Raises `InputError` where there are not that many.
    """
    if not options.mgopt:
        return None
    networks, device = [network], next(network.parameters()).device
    for level in range(1, options.mgopt + 1):
        layers = coarse_layers(options.layers, options.nested_coarsening, level)
        if layers < 2:
            raise InputError(f"mgopt is {options.mgopt}, but level {level} would have {layers} layer; take less")
        networks.append(recipe.build(replace(options, layers=layers)).network.to(device))
    before, after, coarsest = options.mgopt_steps
    return MGOPT(
        networks,
        lambda groups: optimizer_of(options, groups),
        coarsening=options.nested_coarsening,
        transfer=options.transfer,
        before=before,
        after=after,
        coarsest=coarsest,
    )


def _groups(network: nn.Module, stacked: list[bool]) -> list[dict[str, Any]]:
    """Two parameter groups: the layers', and all others."""
    chosen: list[list[Tensor]] = [[], []]
    for theta, is_layers in zip(network.parameters(), stacked, strict=True):
        chosen[0 if is_layers else 1].append(theta)
    return [{"params": group} for group in chosen]


def _weights(network: nn.Module) -> Tensors:
    return [theta.detach() for theta in network.parameters()]


def _assign(network: nn.Module, values: Tensors) -> None:
    for theta, value in zip(network.parameters(), values, strict=True):
        theta.data.copy_(value)


def _copies(tensors: Tensors) -> Tensors:
    return [tensor.clone() for tensor in tensors]
