"""Solvers on trained weights, as items of `bench/gpu.py`: a GRU is trained on the device, then gradients are compared.

The task needs no data: of a sequence of random numbers, the sum of two that are marked. The GRU is propagated exactly
while it is trained. Then, on batches that it has not seen, each solver's gradient error against exact propagation of
the same weights, and its time as a user calls it (from the second call on replayed from CUDA graphs); the same error
with the weights that it began with stands beside it.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from gpu_timing import DEVICE, REHEARSING, both_times, eager_times, same_precision
from torch import Tensor, nn

from lpgpu import GRU, MGRIT, Serial

Item = Callable[[], Iterator[dict[str, Any]]]

INPUTS, STEPS = 9, 3 if REHEARSING else 300
DTYPES = {"fp32": torch.float32} if REHEARSING else {"bf16": torch.bfloat16, "fp32": torch.float32}
CASES = [(64, 16, 4)] if REHEARSING else [(1024, 128, 16), (128, 128, 16), (1024, 256, 16), (4096, 128, 16)]
"""T, H, B."""
WITHIN = 1e-2


def solvers() -> Iterator[MGRIT]:
    """Few cycles to many, of every coarse operator."""
    for m, cycles in ((32, 0), (32, 1), (16, 1), (16, 2), (16, 3)):
        yield MGRIT(
            levels=2,
            coarsening=m,
            relaxation="F",
            iterations=cycles,
            adjoint_iterations=cycles,
            coarse_operator="linear",
        )
    for forward, adjoint in ((1, 0), (1, 1), (2, 1), (2, 2), (3, 3)):
        yield MGRIT(levels=2, coarsening=16, iterations=forward, adjoint_iterations=adjoint)
    for forward, adjoint in ((1, 0), (1, 1)):
        yield MGRIT(
            levels=2, coarsening=16, relaxation="F", iterations=forward, adjoint_iterations=adjoint,
            coarse_operator="picard",
        )  # fmt: skip


class Summing(nn.Module):
    """A GRU and the head that reads the sum off its last state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gru = GRU(INPUTS, width, solver=Serial())
        self.head = nn.Linear(width, 1)

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        """Mean squared error of a batch [T, B, 9], [B]."""
        return (self.head(self.gru(x)[1][0]).squeeze(-1).float() - target).square().mean()


def batch(length: int, size: int) -> tuple[Tensor, Tensor]:
    """Numbers in [0, 1) and their marks, seven channels of noise; the sum of the two marked ones, less its mean."""
    x = torch.randn(length, size, INPUTS, device=DEVICE) * 0.1
    x[..., 0], x[..., 1] = torch.rand(length, size, device=DEVICE), 0
    marked = torch.rand(length, size, device=DEVICE).topk(2, 0).indices
    x[..., 1].scatter_(0, marked, 1.0)
    return x, x[..., 0].gather(0, marked).sum(0) - 1


def trained(net: Summing, length: int, size: int) -> dict[str, Any]:
    """Train it in place; the losses, and how far its recurrent weights went."""
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    before, losses = net.gru.weight_hh_l0.detach().clone(), []
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        loss = net.loss(*batch(length, size))
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    ends = torch.stack([torch.stack(each).mean() for each in (losses[:20], losses[-20:])]).tolist()
    moved = float((net.gru.weight_hh_l0.detach() - before).norm() / before.norm())
    return {"trained steps": STEPS, "loss": ends, "W_hh moved": moved}


def gradient(net: Summing, x: Tensor, target: Tensor) -> Tensor:
    """All gradients of the GRU in one vector."""
    net.zero_grad(set_to_none=True)
    net.loss(x, target).backward()
    return torch.cat([p.grad.float().flatten() for p in net.gru.parameters() if p.grad is not None])


def measure(length: int, width: int, size: int, *, check: bool) -> Iterator[dict[str, Any]]:
    """Training's row; then in each dtype exact propagation, cuDNN's GRU, every solver, and the soonest within 1e-2."""
    torch.manual_seed(0)
    precision = same_precision()
    begun, net = Summing(width).to(DEVICE), Summing(width).to(DEVICE)
    net.load_state_dict(begun.state_dict())
    yield {"precision": precision, **trained(net, length, size)}
    if check:
        return
    x, target = batch(length, size)
    for name, dtype in DTYPES.items():
        yield from measure_in(name, [each.to(dtype) for each in (net, begun)], x.to(dtype), target)
        net, begun = net.float(), begun.float()


def measure_in(dtype: str, nets: list[Summing], x: Tensor, target: Tensor) -> Iterator[dict[str, Any]]:
    """The rows of one dtype."""
    net, row = nets[0], {"dtype": dtype}
    for each in nets:
        each.gru.solver = Serial()
    exact = [gradient(each, x, target) for each in nets]
    times = {"Serial()": eager_times(lambda: gradient(net, x, target), repeats=7).p50}
    yield {**row, "solver": "Serial()", "eager": times["Serial()"]}
    theirs = nn.GRU(INPUTS, net.gru.hidden_size, device=x.device, dtype=x.dtype)
    weight = torch.randn_like(theirs(x)[1])
    yield {**row, "solver": "torch.nn.GRU", **both_times(lambda: theirs(x)[1].backward(weight), repeats=7)}
    for solver in solvers():
        errors = []
        for each, expected in zip(nets, exact, strict=True):
            each.gru.solver = solver
            errors.append(float((gradient(each, x, target) - expected).norm() / expected.norm()))
        seconds = asdict(eager_times(lambda: gradient(net, x, target), repeats=7))
        if errors[0] <= WITHIN:
            times[str(solver)] = seconds["p50"]
        found = {"solver": str(solver), "gradient_error": errors[0], "at the start": errors[1], "eager": seconds}
        yield {**row, **found}
    best = min(times, key=lambda name: times[name])
    yield {
        **row,
        "soonest within": WITHIN,
        "is": best,
        "seconds": times[best],
        "Serial() / it": times["Serial()"] / times[best],
    }


def items(*, check: bool) -> dict[str, Item]:
    """Every network; nothing to check beforehand but that the smallest one trains."""
    return {
        f"trained GRU T={length} H={width} B={size}": partial(measure, length, width, size, check=check)
        for length, width, size in (CASES[1 % len(CASES) :][:1] if check else CASES)
    }
