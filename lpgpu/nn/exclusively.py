"""A module called with tensors that are not its own, by one thread at a time.

torch.func.functional_call puts the tensors into the module for the length of the call: of two threads that share a
network one would compute with the other's, or take them for the module's own.
"""

import threading
import weakref
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lpgpu.nn.called import called

_locks: "weakref.WeakKeyDictionary[nn.Module, threading.RLock]" = weakref.WeakKeyDictionary()
_of_locks = threading.Lock()


def lock_of(module: nn.Module) -> "threading.RLock":
    """The lock to hold while the tensors of `module` are exchanged, or looked at."""
    with _of_locks:
        return _locks.setdefault(module, threading.RLock())


def called_with(
    module: nn.Module, tensors: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> Any:
    """`module(*args, **kwargs)` with `tensors` in the place of its parameters and buffers of these names."""
    with lock_of(module):
        return called(module, tensors, args, dict(kwargs or {}))


def parameters_of(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a module that threads may call, by name."""
    with lock_of(module):
        return dict(module.named_parameters())


def buffers_of(module: nn.Module) -> dict[str, Tensor]:
    """The buffers of a module that threads may call, by name."""
    with lock_of(module):
        return dict(module.named_buffers())
