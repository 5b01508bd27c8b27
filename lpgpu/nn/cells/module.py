"""Any cell: an nn.Module called as cell(x_t, h)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lpgpu.nn.called import refuse_changed, version
from lpgpu.nn.cells.cell import Masks
from lpgpu.nn.cells.vmapped import VmappedCell
from lpgpu.nn.exclusively import buffers_of, called_with, lock_of
from lpgpu.nn.packing import Packing
from lpgpu.nn.propagators.functional import Named


class ModuleCell(VmappedCell):
    """`module`(x_t, h) → h, its state packed as one tensor [B, S]; `named` are its parameters, by name.

    Over several steps it is `module.coarse(x_t, h, spans)` where there is such a method, else the module once.
    """

    may_draw = True

    def __init__(self, module: nn.Module, named: Named, packing: Packing, masks: Masks) -> None:
        self.module = module
        self.caller = _Caller(module)
        self.names = [f"module.{name}" for name in named]
        self.buffers = {f"module.{name}": buffer for name, buffer in buffers_of(module).items()}
        self.weights = tuple(named.values())
        self.packing = packing
        self.masks = masks

    def step(self, x: Tensor, h: Tensor, weights: Sequence[Tensor], spans: int) -> Tensor:
        named = {**dict(zip(self.names, weights, strict=True)), **self.buffers}
        versions = {name: version(buffer) for name, buffer in self.buffers.items()}
        with lock_of(self.caller.module):
            out = called_with(self.caller, named, (x, self.packing.unpack(h), spans))
        refuse_changed([name for name, buffer in self.buffers.items() if version(buffer) != versions[name]])
        return self.packing.pack(out)

    def output(self, h: Tensor) -> Tensor:
        return tree_leaves(self.packing.unpack(h))[0]


class _Caller(nn.Module):
    """Has both ways to call a cell behind one forward, for functional_call."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.coarse = getattr(module, "coarse", None)

    def forward(self, x: Tensor, h: Any, spans: int) -> Any:
        return self.module(x, h) if spans == 1 or self.coarse is None else self.coarse(x, h, spans)
