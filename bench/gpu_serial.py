"""Our serial GRU against torch.nn.GRU (cuDNN), whole training steps, as items of `bench/gpu.py`.

Both compute the classic cell with the same weights and the same precision. Ours is timed as it is by default, and where
that marches in CUDA C++ by Triton's kernels too. The error is that of all gradients against torch.nn.GRU in fp32
without TF32; where ours is not right there is no time.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from gpu_timing import DEVICE, REHEARSING, both_times, same_precision
from torch import Tensor, nn

from lpgpu import GRU, Serial
from lpgpu.kernels import dispatch
from lpgpu.kernels.cuda import choice

Item = Callable[[], Iterator[dict[str, Any]]]

LENGTHS, INPUTS = ((16,), 8) if REHEARSING else ((1024, 128), 64)
CHECKED_STEPS = 16 if REHEARSING else 64  # side by side with others, whose memory is short
WIDTHS, BATCHES = ((16,), (4,)) if REHEARSING else ((256, 128, 512, 1024, 64), (16, 64, 1, 256))
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}
ALLOWED = {"bf16": 0.1, "fp32": 1e-3, "fp16": 1e-2}


def step(net: nn.GRU, x: Tensor, weight: Tensor) -> None:
    """Forward and backward, gradients anew."""
    net.zero_grad(set_to_none=True)
    x.grad = None
    net(x)[0].backward(weight)


def gradients(net: nn.GRU, x: Tensor, weight: Tensor) -> Tensor:
    """All gradients of a step in one vector, in fp32."""
    step(net, x, weight)
    return torch.cat([t.grad.float().flatten() for t in (x, *net.parameters()) if t.grad is not None])


def measure(width: int, batch: int, length: int, dtype: str, *, check: bool) -> Iterator[dict[str, Any]]:
    """cuDNN's times, ours, and how much longer cuDNN takes."""
    torch.manual_seed(0)
    precision, kind = same_precision(), DTYPES[dtype]
    theirs = nn.GRU(INPUTS, width, device=DEVICE, dtype=kind)
    ours = GRU(INPUTS, width, formulation="classic", solver=Serial(), device=DEVICE, dtype=kind)
    ours.load_state_dict(theirs.state_dict())
    steps = CHECKED_STEPS if check else length
    x = torch.randn(steps, batch, INPUTS, device=DEVICE, dtype=kind, requires_grad=True)
    weight = torch.randn(steps, batch, width, device=DEVICE, dtype=kind)
    exact = nn.GRU(INPUTS, width, device=DEVICE)
    exact.load_state_dict({name: value.float() for name, value in theirs.state_dict().items()})
    torch.backends.cudnn.allow_tf32 = False
    expected = gradients(exact, x.detach().float().requires_grad_(), weight.float())
    same_precision()
    error = float((gradients(ours, x, weight) - expected).norm() / expected.norm())
    row: dict[str, Any] = {"error": error, "allowed": ALLOWED[dtype], "precision": precision}
    if not error <= ALLOWED[dtype]:
        yield {**row, "failed": f"gradients are off by {error:.1e}: no time"}
        return
    if check:
        yield row
        return
    del exact, expected
    before = dispatch.launches.copy()
    step(ours, x, weight)
    row["marches"] = sum(n for name, n in (dispatch.launches - before).items() if name.endswith("_march"))
    row["ours"] = both_times(lambda: step(ours, x, weight))
    if row["marches"]:
        row |= by_triton(ours, x, weight)
    yield {**row, "partial": True}
    row["cuDNN"] = both_times(lambda: step(theirs, x, weight))
    best = {
        name: min(row[name][how]["p50"] for how in ("eager", "graph") if how in row[name]) for name in ("ours", "cuDNN")
    }
    yield {**row, "cuDNN / ours": best["cuDNN"] / best["ours"]}


def by_triton(net: nn.GRU, x: Tensor, weight: Tensor) -> dict[str, Any]:
    """Times without CUDA C++, and how far its gradients are from these."""
    marched = gradients(net, x, weight)
    with choice.choice("nowhere"):
        expected = gradients(net, x, weight)
        times = both_times(lambda: step(net, x, weight))
    return {"by Triton": times, "from Triton's": float((marched - expected).norm() / expected.norm())}


def items(*, check: bool) -> dict[str, Item]:
    """Every width, batch and dtype; all of a batch before the next one, fp16 at H = 128 only."""
    return {
        f"serial GRU H={width} B={batch} T={length} {dtype}": partial(measure, width, batch, length, dtype, check=check)
        for length, batch, width, dtype in itertools.product(LENGTHS, BATCHES, WIDTHS, DTYPES)
        if not (check and length != LENGTHS[0]) and (dtype != "fp16" or width in (16, 128))
    }
