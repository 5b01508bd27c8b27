"""The precision that blocks and cells compute in where it is lower than that of their parameters and states.

As under torch.autocast: products in bf16 or fp16, parameters, states and residuals as they are.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from lpgpu.nn.arguments import with_tensors_mapped

LOWER = (torch.bfloat16, torch.float16)

_surrounding: ContextVar[torch.dtype | None] = ContextVar("dtype of the autocast around a network", default=None)


def surrounding_autocast() -> torch.dtype | None:
    """That of the `own_precision` that we are in."""
    return _surrounding.get()


@contextmanager
def own_precision(device: str, low: torch.dtype | None) -> Iterator[None]:
    """No autocast inside the `with` statement; `low` is what there was around it."""
    token = _surrounding.set(low)
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        _surrounding.reset(token)


def products_in(dtype: torch.dtype | None, device: str) -> AbstractContextManager[Any]:
    """Autocast to `dtype` inside the `with` statement; None: all stays as it is."""
    # a cache would keep the casts of one layer's weights for the next one's
    return nullcontext() if dtype is None else torch.autocast(device, dtype, cache_enabled=False)


def taken_back(given: Any, dtype: torch.dtype, low: torch.dtype) -> Any:
    """`given`, with what autocast to `low` has made of its tensors as `dtype` again."""
    return with_tensors_mapped(lambda value: value.to(dtype) if value.dtype == low else value, given)


def lowered(block: Callable[..., Any], dtype: torch.dtype | None, like: Tensor) -> Callable[..., Any]:
    """`block` with its products in `dtype`, returning tensors of the dtype of the state `like`; None: as it is."""
    if dtype is None:
        return block

    def restored(value: Any) -> Any:
        return value.to(like.dtype) if isinstance(value, Tensor) and value.dtype == dtype else value

    def call(*arguments: Any, **named: Any) -> Any:
        with products_in(dtype, like.device.type):
            out = block(*arguments, **named)
        return tree_map(restored, out)

    return call


def check_block_dtype(dtype: Any, x: Tensor | None = None) -> None:
    """Refuse what no block can compute in, and a state `x` that does not go with it.

    Raises:
        ValueError: for anything but None, torch.bfloat16 and torch.float16; beside these for an `x` that is no float32.
    """
    if dtype is not None and dtype not in LOWER:
        raise ValueError(
            f"block_dtype is {dtype!r}; expected None, torch.bfloat16 or torch.float16. For another precision of all, "
            "convert the network: net.to(...)"
        )
    if dtype is not None and x is not None and x.dtype != torch.float32:
        raise ValueError(
            f"x is {x.dtype} and block_dtype {dtype}; expected float32 states, which blocks of a lower precision "
            "go with"
        )
