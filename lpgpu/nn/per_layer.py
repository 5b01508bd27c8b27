"""`Module.apply` on a stack: what is meant for one layer is done to each of them."""

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lpgpu.nn.alike import check_alike, lines_of_difference, structure
from lpgpu.nn.stacking import layer_weights


def apply_to_layers(stacked: nn.Module, fn: Callable[[nn.Module], Any], own: range, num_layers: int) -> None:
    """`fn(part)` for every part of each of `num_layers` layers in turn, as `Module.apply` of a sequence of them does.

    `stacked` has the layers `own`. For the others `fn` runs too, on weights that are thrown away: whatever it draws,
    every rank draws the same. The first of its own layers it meets in the stack's own modules, so that hooks and plain
    attributes stay there; all others in copies.

    Raises:
        ValueError: when `fn` changes names, shapes or dtypes of parameters and buffers, or makes layers unlike.
    """
    stack, first = _tensors(stacked), ""
    with layer_weights(stacked, 0):
        pattern = copy.deepcopy(stacked)
    for k in range(num_layers):
        if k == own.start:
            with layer_weights(stacked, 0):
                stacked.apply(fn)
                _take(stack, 0, stacked)
                first = structure(stacked)
            continue
        layer = copy.deepcopy(pattern)
        if k not in own:
            layer.apply(fn)
            continue
        for name, tensor in _tensors(layer).items():
            tensor.detach().copy_(stack[name].detach()[k - own.start])
        layer.apply(fn)
        check_alike(lines_of_difference(first, structure(layer)), f"apply made layer {k} unlike layer {own.start}")
        _take(stack, k - own.start, layer)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, tied ones under each of their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _take(stack: dict[str, Tensor], index: int, layer: nn.Module) -> None:
    """Write one layer's values into the stacked tensors."""
    new = _tensors(layer)
    was = {name: (tensor.shape[1:], tensor.dtype) for name, tensor in stack.items()}
    if (now := {name: (tensor.shape, tensor.dtype) for name, tensor in new.items()}) != was:
        changed = sorted({name for name, _ in was.items() ^ now.items()})
        raise ValueError(
            f"apply may change the values of a layer's parameters and buffers, not which there are, their shapes or "
            f"dtypes; it changed {', '.join(changed)}. Do so inside block(), or with .to(...) of the whole network"
        )
    for name, tensor in new.items():
        stack[name].detach()[index].copy_(tensor.detach())
        if isinstance(stack[name], nn.Parameter):
            stack[name].requires_grad_(tensor.requires_grad)
