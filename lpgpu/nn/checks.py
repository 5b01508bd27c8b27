"""Bad input, refused before any work: what came, what was expected, the cure. Each raises TypeError or ValueError."""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from lpgpu.nn.schemes import FORMS, SCHEMES


def check_arguments(local_num_steps: int, Tf: float, scheme: str, form: str) -> None:
    """Refuse what makes no LayerParallel network."""
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
    if form not in FORMS:
        kinds = ", ".join(f'"{name}" ({meaning})' for name, meaning in FORMS.items())
        raise ValueError(f"form is {form!r}; expected one of {kinds}")


def check_names(new: set[str]) -> None:
    """Refuse parameters that are `new` in the layers: what makes a layer's weight of them would mix the layers."""
    if new:
        raise ValueError(
            f"the layers have parameters that block() did not build: {', '.join(sorted(new))}. The stacked weights of "
            "all layers cannot be parametrized (weight_norm, spectral_norm, pruning); do so inside block(), layer by "
            "layer"
        )


def check_call(block: nn.Module, form: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse a block whose forward does not take what it is called with."""
    if block._forward_pre_hooks:
        return  # these may change the arguments
    signature = _signature(block.forward)
    names = [
        *(["t"] if next(iter(signature.parameters), None) == "t" else []),
        *(["dt"] if form == "step" else []),
        "u",
    ]
    try:
        signature.bind(*names, *args, **kwargs)
    except TypeError as error:
        given = [*names, *(["..."] if args else []), *(f"{name}=..." for name in kwargs)]
        raise TypeError(
            f"the block's forward is {signature}, and with form={form!r} it is called as block({', '.join(given)}): "
            f'{error}. form="rhs" and "residual" call block(u), form="step" calls block(dt, u); a first argument '
            "called t gets the time; what net(x, ...) is called with besides x follows"
        ) from error


def _signature(forward: Callable[..., Any]) -> inspect.Signature:
    """That of a bound forward; of one that is written in a class, looked up once."""
    function = getattr(forward, "__func__", None)
    return inspect.signature(forward) if function is None else _of_method(function)


@lru_cache(maxsize=256)
def _of_method(function: Callable[..., Any]) -> inspect.Signature:
    signature = inspect.signature(function)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def check_state(x: Tensor, parameters: tuple[Tensor, ...]) -> None:
    """Refuse an `x` that is no state of layers with these parameters."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x is {type(x).__name__}; expected a tensor [batch, ...]")
    check_ordinary("x", x, next(iter(parameters), None))
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


def check_ordinary(name: str, x: Tensor, weight: Tensor | None) -> None:
    """Refuse what no solve can take, whatever its shape and dtype; `weight` is one of the network's, if it has any.

    Raises:
        NotImplementedError: inside a transform of torch.func, such as vmap.
        ValueError: for an `x` that is not dense, or an `x` or a network on the device "meta", or one that is sharded.
    """
    if torch._C._are_functorch_transforms_active():
        raise NotImplementedError(
            "the network is called inside a transform of torch.func (vmap, grad, jacrev, …), which cannot look into a "
            f"solve; pass all examples as the batch of {name}, and take gradients by backward() or torch.autograd.grad"
        )
    if x.layout != torch.strided or x.is_nested:
        kind, cure = x.layout, ".to_dense()"
        if x.is_nested:
            kind, cure = "nested", ".to_padded_tensor(0); inside nn.TransformerEncoder, model.use_nested_tensor = False"
        raise ValueError(f"{name} is {kind}; expected a dense tensor: {cure}")
    if weight is not None and type(weight).__name__ == "DTensor":  # torch.distributed.tensor is slow to import
        raise ValueError(
            "the parameters are sharded (DTensor) while the network is called. FSDP gathers them for the module that "
            "it wraps: call fully_shard on the LayerParallel, GRU or Recurrent itself or on a module around it, not on "
            "its .layers. Tensor parallelism is not supported"
        )
    if weight is not None and weight.is_meta:
        raise ValueError(
            "the network is on meta, where tensors have no values; give it some with .to_empty(device=...) and "
            "load_state_dict, or build it on a CPU or GPU"
        )
    if x.is_meta:
        raise ValueError(f"{name} is on meta, where tensors have no values; make it on a CPU or GPU")


def checksum(x: Tensor) -> int:
    """The sum of the values' bits, as integers: whatever device and number of threads add them up, it is the same.

    >>> checksum(torch.tensor([0.0, 1.0])) == checksum(torch.tensor([-0.0, 1.0]))
    True
    """
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return int((x.detach() + 0.0).contiguous().view(integers).sum())
