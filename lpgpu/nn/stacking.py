"""Stacking: many modules of one structure as one module whose parameters and buffers are [layers, ...]."""

import copy
import inspect
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lpgpu.nn.alike import Pattern, check_alike, refuse_compiled, refuse_parts_held_apart, structure
from lpgpu.nn.layer_index import name_indices
from lpgpu.nn.statistics import check_statistics


def draw_seed() -> int:
    """One draw from the global generator, from which `stack` makes a seed for each layer."""
    return int(torch.randint(2**62, ()))


def stack(block: Callable[[], nn.Module], layers: range, seed: int) -> nn.Module:
    """One module like those that `block()` builds, with the parameters of one for each of `layers` stacked.

    Layer k of a network is drawn from seed + k: it starts from the same weights however the layers are distributed.

    Raises:
        TypeError: when `block` is not callable, or does not build modules.
        ValueError: when the modules differ in structure, attributes or hooks, share parameters, or keep running
            statistics; when a parameter has gradient hooks, or a buffer wants a gradient.
    """
    _check_builder(block)
    modules = [_built(block, seed + k) for k in layers]
    _check_uniform(modules)
    refuse_parts_held_apart(modules[0])
    whole = _copied(modules[0])
    stacked: dict[int, Tensor] = {}  # by the identity of layer 0's tensor: what is tied within a layer stays tied
    for owner, name, (_, *tensors) in list(slots([whole, *modules])):
        first = tensors[0]
        if id(first) not in stacked:
            if isinstance(first, nn.Parameter) and len(set(map(id, tensors))) < len(layers):
                raise ValueError(
                    f"the layers share their parameter {name!r}; every layer must have its own: build it inside block()"
                )
            if any(map(_has_hooks, tensors)):
                raise ValueError(
                    f"the block's parameter {name!r} has gradient hooks, which would never run: the layers' parameters "
                    "are stacked, as one. Register them on that one afterwards, which has the gradients of all layers: "
                    "net.layers.get_parameter(name).register_hook(...)"
                )
            if first.requires_grad and not isinstance(first, nn.Parameter):
                raise ValueError(f"the block's buffer {name!r} wants a gradient; make it an nn.Parameter")
            values = torch.stack([tensor.detach() for tensor in tensors])
            is_parameter = isinstance(first, nn.Parameter)
            stacked[id(first)] = nn.Parameter(values, first.requires_grad) if is_parameter else values
        _put(owner, name, stacked[id(first)])
    name_indices(whole, modules, layers.start)
    for part in whole.modules():
        vars(part).update(dict.fromkeys(_methods_of_one_layer(part), refuse_to_reset))
    return whole


def stacked_tensors(stacked: nn.Module) -> list[Tensor]:
    """The parameters and buffers of a stack, [layers, ...] each, detached; one that is tied, as often as it is used."""
    return [tensors[0].detach() for _, _, tensors in slots([stacked])]


def with_tensors(stacked: nn.Module, values: Sequence[Tensor]) -> nn.Module:
    """A copy of a stack with other `values`, of any number of layers, for its `stacked_tensors`."""
    whole = copy.deepcopy(stacked)
    new: dict[int, Tensor] = {}
    for (owner, name, (old,)), value in zip(list(slots([whole])), values, strict=True):
        is_parameter = isinstance(old, nn.Parameter)
        _put(owner, name, new.setdefault(id(old), nn.Parameter(value, old.requires_grad) if is_parameter else value))
    return whole


@contextmanager
def layer_weights(stacked: nn.Module, layer: int) -> Iterator[None]:
    """Within the context `stacked` is like one layer, with its parameters and buffers (detached copies)."""
    places = [(owner, name, tensors[0]) for owner, name, tensors in slots([stacked])]
    of_layer: dict[int, Tensor] = {}
    of_stack = [(part, name) for part in stacked.modules() for name in _methods_of_one_layer(part)]
    try:
        for part, name in of_stack:
            vars(part).pop(name, None)
        for owner, name, tensor in places:
            if id(tensor) not in of_layer:
                values = tensor.detach()[layer].clone()
                is_parameter = isinstance(tensor, nn.Parameter)
                of_layer[id(tensor)] = nn.Parameter(values, tensor.requires_grad) if is_parameter else values
            _put(owner, name, of_layer[id(tensor)])
        yield
    finally:
        for part, name in of_stack:
            vars(part)[name] = refuse_to_reset
        for owner, name, tensor in places:
            _put(owner, name, tensor)


def refuse_to_reset() -> None:
    """In the place of a stacked module's reset_parameters(): it would take all layers' weights for those of one.

    Raises:
        RuntimeError: always, with the cure.
    """
    raise RuntimeError(
        "reset_parameters() of a module that stacks the weights of all layers would draw them as if they were one "
        "layer's; initialise layer by layer, by the network's apply: "
        "net.apply(lambda m: m.reset_parameters() if hasattr(m, 'reset_parameters') else None)"
    )


def _methods_of_one_layer(part: nn.Module) -> list[str]:
    return [name for name in ("reset_parameters", "_reset_parameters") if hasattr(part, name)]


def _copied(module: nn.Module) -> nn.Module:
    """A copy of a module that the caller may have kept: its parts, containers and bound methods are copied, all other
    values that it refers to are the same ones."""
    same = {
        id(value): value
        for part in module.modules()
        for value in vars(part).values()
        if not isinstance(value, nn.Module | dict | list | tuple | set | types.MethodType)
    }
    return copy.deepcopy(module, same)


def _check_builder(block: Callable[[], nn.Module]) -> None:
    """Raise TypeError unless `block` can be called without arguments."""
    if not callable(block) or isinstance(block, nn.Module):
        raise TypeError(
            f"block is {type(block).__name__}; expected a callable without arguments that builds one layer's "
            "nn.Module, such as `lambda: DenseBlock(8)`"
        )
    try:
        parameters = inspect.signature(block).parameters.values()
    except ValueError:
        return  # of what is built in there may be none: calling it will tell
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    wanted = [each.name for each in parameters if each.default is each.empty and each.kind not in variadic]
    if wanted:
        name = getattr(block, "__name__", type(block).__name__)
        raise TypeError(
            f"block is {name}, which cannot be called without {', '.join(wanted)}; pass a callable without arguments: "
            f"`lambda: {name}({wanted[0]}=...)`"
        )


def _built(block: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()):
        torch.manual_seed(seed)
        module = block()
    if not isinstance(module, nn.Module):
        raise TypeError(f"block() returned {type(module).__name__}; expected an nn.Module")
    refuse_compiled(module)
    check_statistics(module)
    return module


def _check_uniform(modules: list[nn.Module]) -> None:
    pattern = Pattern(modules[0])
    for k, module in enumerate(modules[1:], start=1):
        if module is modules[0]:
            raise ValueError("block() returned the same module twice; it must build a new one at every call")
        check_alike(pattern.differences(module), f"block() built layer {k} unlike layer 0")


def layer_structure(stacked: nn.Module) -> str:
    """All that the layers of a stack have in common."""
    with layer_weights(stacked, 0):
        return structure(stacked)


def slots(modules: list[nn.Module]) -> Iterator[tuple[nn.Module, str, list[Tensor]]]:
    """Every (owning submodule of the first module, attribute name, that tensor of each module)."""
    for parts in zip(*(module.modules() for module in modules), strict=True):
        for tables in (tuple(part._parameters for part in parts), tuple(part._buffers for part in parts)):
            for name, tensor in list(tables[0].items()):
                if tensor is not None:
                    yield parts[0], name, [table[name] for table in tables]  # pyright: ignore


def _has_hooks(tensor: Tensor) -> bool:
    return bool(tensor._backward_hooks or tensor._post_accumulate_grad_hooks)


def _put(owner: nn.Module, name: str, tensor: Tensor) -> None:
    if isinstance(tensor, nn.Parameter):
        owner._parameters[name] = tensor
    else:
        owner._buffers[name] = tensor
