"""Nested iteration: train a shallow network first, and let it start the deeper one.

    for l = coarsest … 1:  train the network of ⌈N/m^l⌉ layers for n_l epochs;  θ^(l−1) = P θ^(l)

E. Cyr, S. Günther, J. Schroder, Multilevel initialization for layer-parallel deep neural network training (2019). The
coarsest network is trained serially. The state of the optimizer is carried too: a layer's gradient is smaller by
Δt_h/Δt_H on the finer network, so first moments are scaled by that, second ones by its square. L-BFGS, whose state is a
history of the coarse network, starts anew.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lpgpu.train.methods.transfer import Interpolation, Transfer, check_transfer

# by which power of the gradient they scale
MOMENTS = {"momentum_buffer": 1, "exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2}
CARRIED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)


@torch.no_grad()
def prolong_(
    fine: nn.Module,
    coarse: nn.Module,
    *,
    coarsening: int = 2,
    transfer: Interpolation = "constant",
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer] | None = None,
) -> None:
    """θ_h = P θ_H: let `fine` start from the trained `coarse`, the network of every m-th of its layers.

    `optimizers`, SGD, Adam or AdamW of the one and of the other, go along: moments are prolonged as the weights are.
    Parameters that have none, such as frozen ones, begin without. Where several ranks share the layers, all call
    together.

    >>> from lpgpu import LayerParallel
    >>> network = lambda layers: LayerParallel(None, lambda: nn.Linear(1, 1), layers, 1.0)
    >>> coarse, fine = network(2), network(4)
    >>> prolong_(fine, coarse)
    >>> bool((fine.layers.weight == coarse.layers.weight.repeat_interleave(2, 0)).all())
    True

    Raises:
        TypeError: for a `coarsening` that is no integer, or `optimizers` that are not two of one of these classes.
        ValueError: when `coarse` is not the network of `fine` with ⌈N/m⌉ layers, neither has a `LayerParallel`, an
            optimizer has parameters that its network has not, `coarsening` is below 2 or there is no such `transfer`.
    """
    check_transfer(coarsening, transfer, "transfer")
    if optimizers is not None:
        _check_optimizers(optimizers, (fine, coarse))
    between = Transfer(fine, coarse, coarsening, transfer)
    for theta, value in zip(fine.parameters(), between.prolong(list(coarse.parameters())), strict=True):
        theta.copy_(value)
    if optimizers is not None:
        _prolong_moments(between, *optimizers, fine, coarse)


def _prolong_moments(
    transfer: Transfer,
    fine: torch.optim.Optimizer,
    coarse: torch.optim.Optimizer,
    fine_network: nn.Module,
    coarse_network: nn.Module,
) -> None:
    """Give `fine` the state of `coarse`: moments prolonged and scaled, all else as it is.

    Which moments travel follows from `fine` alone, and zeros stand for missing ones: so all ranks call together,
    whatever state each has.
    """
    parameters = list(coarse_network.parameters())
    states: list[dict[str, Any]] = [coarse.state.get(theta, {}) for theta in parameters]
    trained = {id(theta) for theta in _parameters(fine)}
    given: list[dict[str, Any]] = [  # what is put into an empty one is lost
        fine.state[theta] if state and id(theta) in trained else {}
        for theta, state in zip(fine_network.parameters(), states, strict=True)
    ]
    for own, state in zip(given, states, strict=True):
        own.update({name: _copy(value) for name, value in state.items() if name not in MOMENTS})
    for name in _moments_of(fine):
        there = [state.get(name) for state in states]
        values = [torch.zeros_like(x) if value is None else value for x, value in zip(parameters, there, strict=True)]
        for own, value, stacked in zip(given, transfer.prolong(values), transfer.stacked, strict=True):
            own[name] = value * (transfer.ratio ** MOMENTS[name] if stacked else 1.0)


def _moments_of(optimizer: torch.optim.Optimizer) -> list[str]:
    """What it keeps for each parameter that scales with the gradient."""
    if isinstance(optimizer, torch.optim.SGD):
        return ["momentum_buffer"]
    amsgrad = any(group["amsgrad"] for group in optimizer.param_groups)
    return ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if amsgrad else [])]


def _check_optimizers(optimizers: Sequence[object], networks: tuple[nn.Module, nn.Module]) -> None:
    """Refuse what `prolong_` cannot carry; the same on all ranks."""
    if not isinstance(optimizers, tuple | list) or len(optimizers) != 2:
        raise TypeError(
            f"optimizers is {optimizers!r}; expected two, (of the fine network, of the coarse one), or None"
        )
    kinds = [type(optimizer) for optimizer in optimizers]
    if kinds[0] is not kinds[1] or kinds[0] not in CARRIED:
        came, expected = (", ".join(kind.__name__ for kind in each) for each in (kinds, CARRIED))
        raise TypeError(f"optimizers are {came}; expected two of one class of {expected}, or None to begin anew")
    for which, optimizer, network in zip(("fine", "coarse"), optimizers, networks, strict=True):
        own = {id(theta) for theta in network.parameters()}
        if not own.issuperset(id(theta) for theta in _parameters(optimizer)):
            raise ValueError(
                f"the optimizer of the {which} network has parameters that are not of that network; expected "
                "optimizers=(of the fine network, of the coarse one)"
            )


def _parameters(optimizer: Any) -> list[torch.Tensor]:
    return [theta for group in optimizer.param_groups for theta in group["params"]]


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value
