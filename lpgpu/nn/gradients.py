"""Gradients of several ranks: averaged over those that share the data, measured over those that share the layers."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lpgpu.comm import Communicator, as_communicator
from lpgpu.nn.layer_parallel import LayerParallel


def average_gradients(module: nn.Module, data_comm: Any, *, bucket_bytes: int = 25 * 2**20) -> None:
    """Replace every gradient by its mean over the ranks of `data_comm`: call between backward and the optimizer.

    The gradients travel in buckets of about `bucket_bytes`, each one message; half precision is summed in fp32. A
    parameter without a gradient on some ranks counts as zero there, without one on all of them it stays without.
    Collective: every rank of `data_comm` calls, with a network of the same parameters.
    """
    communicator = as_communicator(data_comm)
    if communicator.size == 1:
        return
    parameters = [theta for theta in module.parameters() if theta.requires_grad]
    present = torch.tensor([theta.grad is not None for theta in parameters], dtype=torch.int64)
    anywhere = communicator.sum(present).tolist()
    wanted = [theta for theta, count in zip(parameters, anywhere, strict=True) if count]
    for bucket in _buckets(wanted, bucket_bytes):
        _average(bucket, communicator)


def clip_grad_norm_(module: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients by min(1, max_norm / ‖g‖), ‖g‖ the 2-norm over the whole network; ‖g‖ on every rank.

    Layers count on the rank that has them, parameters that all ranks hold count once: every rank scales by the same
    factor, so that these stay the same. Collective over the ranks that share the layers.

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


def _buckets(parameters: Sequence[Tensor], bucket_bytes: int) -> Iterator[list[Tensor]]:
    """Consecutive parameters of one dtype and device, as many as fit, at least one."""
    bucket: list[Tensor] = []
    size = 0
    for theta in parameters:
        nbytes = theta.numel() * theta.element_size()
        alike = not bucket or (theta.dtype, theta.device) == (bucket[0].dtype, bucket[0].device)
        if bucket and (not alike or size + nbytes > bucket_bytes):
            yield bucket
            bucket, size = [], 0
        bucket.append(theta)
        size += nbytes
    if bucket:
        yield bucket


def _average(bucket: list[Tensor], communicator: Communicator) -> None:
    gradients = [torch.zeros_like(theta) if theta.grad is None else theta.grad for theta in bucket]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    wide = torch.promote_types(flat.dtype, torch.float32)
    mean = communicator.sum(flat.to(wide)) / communicator.size
    for theta, part in zip(bucket, mean.split([each.numel() for each in gradients]), strict=True):
        theta.grad = part.view_as(theta).to(theta.dtype)


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
