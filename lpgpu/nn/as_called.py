"""What a call's backward needs of its module besides weights: all that decides what a block computes.

The adjoint evaluates layers again. `net.eval()` between a forward and its backward would switch their dropout off, a
hook that has been removed or a number that was changed would make them another network's, and a buffer that was changed
would take the place of the one that the forward saw.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lpgpu.nn.exclusively import buffers_of
from lpgpu.nn.statistics import running_statistics

_PLAIN = (bool, int, float, str, type(None))
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


class AsCalled:
    """Modes, plain attributes, forward hooks and buffers of all parts of `module`, at a call.

    Attributes:
        buffers: those that a solve reads, so without running statistics that a forward in this mode only updates.
    """

    def __init__(self, module: nn.Module) -> None:
        self._values = [(part, _values(part)) for part in module.modules()]
        updated = set(running_statistics(module))
        self.buffers: list[Tensor] = [buffer for name, buffer in buffers_of(module).items() if name not in updated]

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Within the context every part is as it was called."""
        before: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for part, values in self._values:
            now = vars(part)
            if changed := {name: value for name, value in values.items() if _differ(now.get(name), value)}:
                before.append((now, {name: now[name] for name in changed if name in now}))
                now.update(changed)
        try:
            yield
        finally:
            for now, values in before:
                now.update(values)


def _differ(one: Any, other: Any) -> bool:
    return type(one) is not type(other) or one != other


def _values(part: nn.Module) -> dict[str, Any]:
    """What an nn.Module has of numbers, words and hooks."""
    values = {name: value for name, value in vars(part).items() if type(value) in _PLAIN}
    return values | {name: vars(part)[name].copy() for name in _HOOKS}
