"""What "Add a kernel" of CONTRIBUTING adds: u ← u + a v, the smallest operation."""

KERNEL = {
    "kernels/my_op/reference.py": '''
"""In plain PyTorch."""

from torch import Tensor


def add_scaled_(u: Tensor, v: Tensor, a: float) -> None:
    """u becomes u + a v."""
    u.add_(v, alpha=a)
''',
    "kernels/my_op/operators.py": '''
"""The function of the operation, unchecked; see the package."""

from lpgpu.kernels.my_op import reference
from lpgpu.kernels.operation import Operation

add_scaled_ = Operation(reference.add_scaled_, mutates=("u",))
''',
    "kernels/my_op/__init__.py": '''
"""u ← u + a v."""

from torch import Tensor

from lpgpu.kernels.checks import check_tensors
from lpgpu.kernels.my_op import operators

__all__ = ["add_scaled_"]


def add_scaled_(u: Tensor, v: Tensor, a: float) -> Tensor:
    """u + a v, overwriting u.

    Raises:
        ValueError: for tensors that differ in shape, dtype or device.

    >>> import torch
    >>> add_scaled_(torch.tensor([[1.0]]), torch.tensor([[2.0]]), 3.0).item()
    7.0
    """
    check_tensors(u, v=(v, u.shape))
    operators.add_scaled_(u, v, a)
    return u
''',
    "kernels/my_op/tiles.py": '''
"""How the kernel cuts its work."""

BLOCK = 256
WARPS = 4
''',
    "kernels/my_op/triton_kernels.py": '''
"""The operation as a Triton kernel, one pass."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["a"])
def my_op_kernel(u, v, a, size, BLOCK: tl.constexpr):
    """u becomes u + a v."""
    at = tl.cast(tl.program_id(0), tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < size
    total = tl.load(u + at, mask=here) + a * tl.load(v + at, mask=here)
    tl.store(u + at, total.to(u.dtype.element_ty), mask=here)
''',
    "kernels/my_op/fused.py": '''
"""Its launcher."""

from torch import Tensor

from lpgpu.kernels.launch import Launch, Operands, launch
from lpgpu.kernels.my_op.tiles import BLOCK, WARPS
from lpgpu.kernels.my_op.triton_kernels import my_op_kernel


def add_scaled_(u: Tensor, v: Tensor, a: float) -> None:
    """In one launch."""
    written = u.contiguous()
    launch(_plan, (written, v.contiguous()), scalars=(a,))
    if written is not u:
        u.copy_(written)


def _plan(operands: Operands) -> Launch:
    size = operands[0].numel()
    return Launch(my_op_kernel, (-(-size // BLOCK),), (size,), {"BLOCK": BLOCK, "num_warps": WARPS})
''',
    "kernels/my_op/configurations.py": '''
"""The kernel as it is shipped."""

import torch

from lpgpu.kernels.configuration import Configuration
from lpgpu.kernels.my_op.tiles import BLOCK, WARPS
from lpgpu.kernels.my_op.triton_kernels import my_op_kernel
from lpgpu.kernels.specialisation import specialised


def configurations() -> list[Configuration]:
    """In fp32."""
    tensors = {"u": torch.float32, "v": torch.float32}
    one = specialised(my_op_kernel, "fp32", tensors, {"BLOCK": BLOCK}, num_warps=WARPS, uses_dots=False)
    one.signature["a"] = "fp32"
    return [one]
''',
    "tests/kernels/interpreted/test_my_op.py": '''
"""The operation in Triton's interpreter."""

import pytest
import torch

from lpgpu.kernels import my_op
from lpgpu.kernels.dispatch import launches
from lpgpu.kernels.my_op import reference


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5, 7), (2, 1000), (0, 3)])
def test_against_the_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    u, v = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype).flip(0)
    expected, before = u.clone(), launches["my_op_kernel"]
    reference.add_scaled_(expected, v, 0.3)
    torch.testing.assert_close(my_op.add_scaled_(u, v, 0.3), expected, rtol=1e-5, atol=1e-6)
    assert launches["my_op_kernel"] - before == (u.numel() > 0)
''',
}

COMPILE = """
from lpgpu.kernels import registry
from tests.kernels.compiled import _resources_of, configurations
assert "my_op" in registry.packages() and "my_op.add_scaled_" in registry.operations()
keys = [key for key in configurations() if "my_op_kernel" in key]
assert len(keys) == 2 and all(_resources_of(key).spills == 0 for key in keys), keys
"""
