"""A GPU that is not there: all that a host does for one, on tensors that have a device and no memory.

Networks are propagated forward and backward on fake CUDA tensors. Every operation checks devices and shapes as PyTorch
does on a GPU, whatever would wait for the device raises, and each launch of a Triton kernel is recorded with the
arguments it would have been given, complete enough to be compiled exactly as it would have been there.
"""

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._library.custom_ops import CustomOpDef
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from lpgpu.kernels import devices, launch
from lpgpu.nn.propagation import ForwardSolution, Propagation

LAUNCH_OPTIONS = ("num_warps", "num_stages")


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    def check(self) -> None:
        """Raise where the kernel does not take these arguments, or a tensor is not on the GPU."""
        constexprs = {name: value for name, value in self.options.items() if name not in LAUNCH_OPTIONS}
        inspect.signature(self.kernel.fn).bind(*self.arguments, **constexprs)
        for argument in self.arguments:
            assert not isinstance(argument, Tensor) or argument.is_cuda, f"{self.kernel.__name__}: {argument.device}"
        assert 1 <= len(self.grid) <= 3 and min(self.grid) > 0 and max(self.grid[1:], default=1) < 2**16

    def binary(self, arch: int) -> Any:
        """What Triton compiles for this launch on a GPU of this capability."""
        from triton.runtime.driver import driver

        with patch.object(driver, "_active", _Driver(arch)):
            self.kernel.device_caches.clear()
            arguments = [_Pointer(each) if isinstance(each, Tensor) else each for each in self.arguments]
            return self.kernel.run(*arguments, grid=self.grid, warmup=True, **self.options)

    def specialisation(self) -> str:
        """What tells its binary from another's."""
        shown = []
        for each in self.arguments:
            if isinstance(each, Tensor):
                shown.append(f"{each.dtype} {_Pointer(each).data_ptr() % 16 == 0}")
            elif isinstance(each, int):
                shown.append("1" if each == 1 else str(each % 16 == 0))
            else:
                shown.append(type(each).__name__)
        return f"{self.kernel.__name__} {shown} {sorted(self.options.items(), key=lambda item: item[0])}"


@dataclass
class FakeGPU:
    """What was launched on it, and the forward solves whose adjoints can still be solved."""

    launches: list[Launch] = field(default_factory=list)
    solves: list[ForwardSolution] = field(default_factory=list)

    def train_step(self, net: nn.Module, x: Tensor) -> None:
        """Forward, and back through all that was propagated."""
        self.solves.clear()
        net(x)
        for propagated in reversed(self.solves):
            lam = torch.empty_like(propagated.u.end)
            propagated.adjoint(lam, None, parameters=True)


@contextlib.contextmanager
def fake_gpu(arch: int = 90) -> Iterator[FakeGPU]:
    """Within the context "cuda" is a GPU of this capability. Without autograd, whose engine asks for a real one."""
    gpu = FakeGPU()
    forward, call = Propagation.forward, CustomOpDef.__call__

    def start(kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        gpu.launches.append(Launch(kernel, grid, arguments, options))
        gpu.launches[-1].check()

    def keep(propagation: Propagation, *arguments: Any) -> ForwardSolution:
        gpu.solves.append(forward(replace(propagation, differentiable=True), *arguments))
        return gpu.solves[-1]

    def run(op: CustomOpDef, *arguments: Any, **named: Any) -> Any:
        own = op._qualname.startswith("lpgpu::")  # their own code, not what a fake tensor takes for it
        return op._init_fn(*arguments, **named) if own else call(op, *arguments, **named)

    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(launch, "start", start))
        stack.enter_context(patch.object(Propagation, "forward", keep))
        stack.enter_context(patch.object(CustomOpDef, "__call__", run))
        stack.enter_context(patch("torch.cuda.get_device_capability", lambda device=None: divmod(arch, 10)))
        count = SimpleNamespace(multi_processor_count={80: 108, 90: 132}[arch])
        stack.enter_context(patch("torch.cuda.get_device_properties", lambda device=None: count))
        stack.enter_context(patch("torch.cuda.current_device", lambda: 0))
        stack.enter_context(patch("torch.cuda.current_stream", lambda device=None: SimpleNamespace(cuda_stream=0)))
        stack.enter_context(patch("torch.randint", lambda *_, **__: 7))  # the seed of a call, which the host draws
        stack.enter_context(patch("torch.cuda.is_current_stream_capturing", lambda: False))
        stack.enter_context(patch("torch.cuda.Event", _Event))
        for cached in (devices.arch_of, devices.multiprocessors_of, devices.why_unsupported):
            cached.cache_clear()
            stack.callback(cached.cache_clear)
        stack.enter_context(FakeTensorMode())
        stack.enter_context(_NoWaiting())
        stack.enter_context(torch.no_grad())
        yield gpu


def on_fake_gpu(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    """`net`, built outside of the context, with its parameters on the fake GPU."""
    for module in net.modules():
        for name, theta in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty(theta.shape, dtype=dtype, device="cuda")))
    return net


class _NoWaiting(TorchDispatchMode):
    """Refuses a copy to the CPU that is waited for; what reads a number of a fake tensor is refused by itself."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].is_cuda and not result.is_cuda:
            raise AssertionError("this waits for the device: a copy to the CPU")
        return result


class _Event:
    """A CUDA event that is never reached."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record(self) -> None: ...

    def query(self) -> bool:
        return False


class _Driver:
    """As much of Triton's driver as compiling asks for."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.arch, 32)


class _Pointer:
    """A tensor as Triton looks at it, its storage beginning where PyTorch's allocator would put it."""

    def __init__(self, tensor: Tensor) -> None:
        self.dtype, self.shape = tensor.dtype, tensor.shape
        self._offset = tensor.storage_offset() * tensor.element_size()

    def data_ptr(self) -> int:
        return 512 + self._offset

    @staticmethod
    def ptr_range() -> int:
        return 0
