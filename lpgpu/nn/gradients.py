"""Norms and products of gradients over the whole network, whose layers several ranks may share."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lpgpu.nn.layer_parallel import LayerParallel


def clip_grad_norm_(module: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients by min(1, max_norm / ‖g‖), ‖g‖ the 2-norm over the whole network; ‖g‖ on every rank.

    Layers count on the rank that has them, parameters that all ranks hold count once: every rank scales by the same
    factor, so that these stay the same. Collective over the ranks that share the layers.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> net(torch.tensor([3.0])).backward()
    >>> float(clip_grad_norm_(net, max_norm=1.0)), float(net.weight.grad)
    (3.0, 1.0)

    Raises:
        ValueError: when `max_norm` is not positive.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm is {max_norm}; expected a number > 0")
    norm = network_norm(module, [theta.grad for theta in module.parameters()])
    factor = (max_norm / (norm + 1e-12)).clamp(max=1)
    for theta in module.parameters():
        if theta.grad is not None:
            theta.grad.mul_(factor.to(theta.grad.device, theta.grad.dtype))
    return norm


def network_norm(module: nn.Module, values: Sequence[Tensor | None]) -> Tensor:
    """2-norm of one value for each of `module.parameters()`, such as their gradients; as `network_dot`."""
    return network_dot(module, values, values).sqrt()


def network_dot(module: nn.Module, left: Sequence[Tensor | None], right: Sequence[Tensor | None]) -> Tensor:
    """⟨left, right⟩ over the whole network, in fp64, of two values for each of `module.parameters()`; None is zero.

    Layers count on the rank that has them, parameters that all ranks hold count once. The same on every rank.
    Collective over the ranks that share the layers.
    """
    dots = {id(x): _dot(a, b) for x, a, b in zip(module.parameters(), left, right, strict=True)}
    zero = torch.zeros((), dtype=torch.float64, device=_device(module))
    shared = [part for part in module.modules() if isinstance(part, LayerParallel) and part.is_shared]
    of_layers = [_sum([dots.pop(id(x)) for x in part.layers.parameters()], zero) for part in shared]
    replicated = _sum(list(dots.values()), zero)
    if not shared:
        return replicated
    if shared[0].has_first_layer:  # one rank's copies, within a sum that is the same on all
        of_layers[0] = of_layers[0] + replicated
    return torch.stack([part.sum_over_ranks(mine) for part, mine in zip(shared, of_layers, strict=True)]).sum()


def _dot(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """⟨a, b⟩ in fp64."""
    if a is None or b is None:
        return None
    return (
        torch.linalg.vector_norm(a, dtype=torch.float64).square() if a is b else torch.sum(a * b, dtype=torch.float64)
    )


def _sum(dots: list[Tensor | None], zero: Tensor) -> Tensor:
    """The sum of those that are there, on the device of `zero`."""
    return torch.stack([zero, *(dot.to(zero.device) for dot in dots if dot is not None)]).sum()


def _device(module: nn.Module) -> torch.device | str:
    return next((theta.device for theta in module.parameters()), "cpu")
