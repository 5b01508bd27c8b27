"""Whole networks' states: what P ranks save, Q ranks load.

A LayerParallel network's own state_dict holds this rank's layers. The full one holds those of all ranks, stacked in
order, under the same names; everything else is the same on every rank. All functions are collective: every rank of a
network's communicator calls them, with the same modules in the same order.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lpgpu.nn.layer_parallel import LayerParallel


def full_state_dict(module: nn.Module) -> dict[str, Any]:
    """`module.state_dict()` of the whole network, the same on every rank.

    >>> net = LayerParallel(None, lambda: nn.Linear(2, 2), 6, 1.0)
    >>> {name: tuple(value.shape) for name, value in full_state_dict(net).items()}
    {'layers.weight': (6, 2, 2), 'layers.bias': (6, 2)}
    """
    state = module.state_dict()
    for prefix, part in _distributed(module):
        for name in _names_of_layers(state, prefix):
            state[name] = part.of_all_ranks(state[name])
    return state


def load_full_state_dict(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Load what `full_state_dict` gave, on whatever number of ranks.

    >>> net, twin = (LayerParallel(None, lambda: nn.Linear(2, 2), 6, 1.0) for _ in range(2))
    >>> load_full_state_dict(twin, full_state_dict(net))
    >>> torch.equal(net.layers.weight, twin.layers.weight)
    True

    Raises:
        ValueError: when a network has another number of layers than its state.
        RuntimeError: as `module.load_state_dict`, for other names or shapes.
    """
    own = dict(state)
    for prefix, part in _distributed(module):
        for name in _names_of_layers(own, prefix):
            own[name] = part.of_this_rank(own[name], name)
    module.load_state_dict(own)


def full_optimizer_state_dict(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """`optimizer.state_dict()` of the whole network: moments and the like of all ranks' layers, stacked like them.

    >>> net = LayerParallel(None, lambda: nn.Linear(2, 2), 6, 1.0)
    >>> optimizer = torch.optim.Adam(net.parameters())
    >>> net(torch.randn(3, 2)).sum().backward()
    >>> optimizer.step()
    >>> [tuple(of["exp_avg"].shape) for of in full_optimizer_state_dict(net, optimizer)["state"].values()]
    [(6, 2, 2), (6, 2)]
    """
    state = optimizer.state_dict()
    state["state"] = {
        index: {
            name: part.of_all_ranks(value) if part and _is_stacked_like(value, theta) else value
            for name, value in state["state"][index].items()
        }
        for index, theta, part in _parameters(module, optimizer, state["state"])
    }
    return state


def load_full_optimizer_state_dict(
    module: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    """Load what `full_optimizer_state_dict` gave, on whatever number of ranks.

    >>> net = LayerParallel(None, lambda: nn.Linear(2, 2), 6, 1.0)
    >>> optimizer = torch.optim.Adam(net.parameters())
    >>> net(torch.randn(3, 2)).sum().backward()
    >>> optimizer.step()
    >>> load_full_optimizer_state_dict(net, optimizer, full_optimizer_state_dict(net, optimizer))

    Raises:
        ValueError: as `load_full_state_dict` and `optimizer.load_state_dict`.
    """
    own = {
        index: {
            name: part.of_this_rank(value, name) if part and _is_stacked(value, theta) else value
            for name, value in state["state"][index].items()
        }
        for index, theta, part in _parameters(module, optimizer, state["state"])
    }
    optimizer.load_state_dict({**state, "state": own})


def _distributed(module: nn.Module) -> Iterator[tuple[str, LayerParallel]]:
    """(prefix of its layers' names, network) of each LayerParallel inside, which several ranks share."""
    for name, part in module.named_modules():
        if isinstance(part, LayerParallel) and part.is_shared:
            yield f"{name}.layers." if name else "layers.", part


def _names_of_layers(state: Mapping[str, Any], prefix: str) -> list[str]:
    return [name for name, value in state.items() if name.startswith(prefix) and isinstance(value, Tensor)]


def _parameters(
    module: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[int, Any]
) -> Iterator[tuple[int, Tensor, LayerParallel | None]]:
    """(index in the optimizer's state, parameter, the network whose layers it is of) of all that have a state."""
    owners = {id(theta): part for _, part in _distributed(module) for theta in part.layers.parameters()}
    parameters = [theta for group in optimizer.param_groups for theta in group["params"]]
    for index, theta in enumerate(parameters):
        if index in state:
            yield index, theta, owners.get(id(theta))


def _is_stacked_like(value: Any, theta: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == theta.shape


def _is_stacked(value: Any, theta: Tensor) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[1:] == theta.shape[1:]
