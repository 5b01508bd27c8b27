"""Solves stay eager: torch.compile breaks its graph around them, and compiles what lies before and behind."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def eager(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, called as it is by torch.compile, which neither traces nor compiles anything within.

    As torch.compiler.disable, without importing the compiler where nothing is compiled: that takes a second.
    """

    disabled: list[Callable[P, R]] = []

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        if not disabled and (dynamo := sys.modules.get("torch._dynamo")) is not None:
            disabled.append(dynamo.disable(function, reason=_REASON))
        return (disabled[0] if disabled else function)(*args, **kwargs)

    called._torchdynamo_disable = True  # pyright: ignore[reportAttributeAccessIssue]
    called._torchdynamo_disable_msg = _REASON  # pyright: ignore[reportAttributeAccessIssue]
    return called


_REASON = "an iterative solve, by kernels of its own; to compile or export the network as such, use to_sequential()"
