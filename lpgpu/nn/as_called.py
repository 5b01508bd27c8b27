"""What a call's backward needs of its module besides weights: modes and buffers, as they were in the forward.

The adjoint evaluates layers again. `net.eval()` between a forward and its backward would switch their dropout off, and
a buffer that was changed would take the place of the one that the forward saw.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from lpgpu.nn.exclusively import buffers_of
from lpgpu.nn.statistics import running_statistics


class AsCalled:
    """The training modes of all parts of `module`, and its buffers, at a call.

    Attributes:
        buffers: those that a solve reads, so without running statistics that a forward in this mode only updates.
    """

    def __init__(self, module: nn.Module) -> None:
        self._modes = [(part, part.training) for part in module.modules()]
        updated = set(running_statistics(module))
        self.buffers: list[Tensor] = [buffer for name, buffer in buffers_of(module).items() if name not in updated]

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Within the context every part is in the mode that it was called in."""
        changed = [(part, mode) for part, mode in self._modes if part.training != mode]
        for part, mode in changed:
            part.training = mode
        try:
            yield
        finally:
            for part, mode in changed:
                part.training = not mode
