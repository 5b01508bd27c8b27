"""A block called with the weights of one layer in the place of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def called(module: nn.Module, named: Mapping[str, Tensor], args: Sequence[Any], kwargs: Any = None) -> Any:
    """`module(*args, **kwargs)` with the parameters and buffers `named`, by the names in `module.named_parameters()`.

    As torch.func.functional_call, but for a part that has two names in `module`: torch swaps its tensors twice, and
    leaves those of this call in it.

    Raises:
        RuntimeError: where the module puts a new tensor in the place of one of them.
    """
    given = {**named, **{place: named[name] for place, name in _further_places(module).items() if name in named}}
    own = dict(given)  # after the call it holds what the module has then
    out = functional_call(module, own, tuple(args), kwargs, tie_weights=False)
    refuse_changed([name for name in given if own[name] is not given[name]])
    return out


def refuse_changed(buffers: Sequence[str]) -> None:
    """Raise RuntimeError where a block has changed these, unless there are none."""
    if buffers:
        raise RuntimeError(
            f"the block changes its buffers {list(buffers)} while it propagates. A solve visits a layer several times,"
            " so a block must be a function of its input: freeze them by .eval() of the part that has them "
            "(BatchNorm, spectral_norm) after every net.train(), or track_running_stats=False"
        )


def version(tensor: Tensor) -> int | None:
    """How often `tensor` was changed in place; None of those made in inference mode, which do not count."""
    return None if tensor.is_inference() else tensor._version


def _further_places(module: nn.Module) -> dict[str, str]:
    """Of tensors that several parts share: every place but the first ↦ the first, whose name they are known by."""
    first: dict[int, str] = {}
    further = {}
    for prefix, part in module.named_modules():
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            place = f"{prefix}.{name}".removeprefix(".")
            if tensor is not None and first.setdefault(id(tensor), place) != place:
                further[place] = first[id(tensor)]
    return further
