"""Run the kernels that most time goes into once each, for a profiler or a sanitizer: `python bench/gpu_hottest.py`.

`--small`: shapes that a sanitizer, which slows kernels down a hundred times, gets through.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from gpu_timing import DEVICE, REHEARSING, fused
from torch import Tensor

from lpgpu.kernels import conv_step, dense_step, implicit_gru
from lpgpu.kernels.conv_step.layers import Filter, packed
from lpgpu.kernels.cuda import choice
from lpgpu.kernels.implicit_gru import Cell
from lpgpu.kernels.sweep import Sweep

DTYPE = torch.float32 if REHEARSING else torch.bfloat16


def random(*shape: int) -> Tensor:
    """In the dtype, small."""
    return (0.1 * torch.randn(shape, device=DEVICE)).to(DTYPE)


def gru(width: int, batch: int, sweep: Sweep, back: Sweep, where: choice.Where) -> None:
    """A sweep and its adjoint."""
    layers, w, b = sweep.num_layers, random(3 * width, width), random(3 * width)
    h, x, lam = random(layers + 1, batch, width), random(layers, batch, 3 * width), random(layers + 1, batch, width)
    cell = Cell(w, b, 1.0, "classic")
    with choice.choice(where):
        implicit_gru.sweep(h, x, cell, sweep)
        implicit_gru.adjoint_sweep(lam, implicit_gru.linearise(h[:-1], x, cell), w, back)


def dense(width: int, batch: int, sweep: Sweep, back: Sweep) -> None:
    """A sweep and its adjoint."""
    layers = sweep.num_layers
    u, w, b = random(layers + 1, batch, width), random(layers, width, width), random(layers, width)
    dense_step.sweep(u, w, b, 0.01, "tanh", sweep)
    dense_step.adjoint_sweep(random(*u.shape), dense_step.linearise(u[:-1], w, b, "tanh"), w, 0.01, "tanh", back)


def conv(channels: int, size: int, images: int, sweep: Sweep, where: choice.Where) -> None:
    """A sweep of two convolutions."""
    layers = sweep.num_layers
    u = conv_step.empty_states(layers + 1, random(images, channels, size, size))
    u.copy_(random(*u.shape))
    filters = [Filter(random(layers, channels, channels, 3, 3), random(layers, channels)) for _ in range(2)]
    with choice.choice(where):
        conv_step.sweep(u, packed(filters), 0.01, "tanh", sweep)


def hottest(*, small: bool) -> Iterator[tuple[str, Callable[[], None]]]:
    """Names and calls: one serial solve of a GRU in CUDA C++, sweeps of MGRIT by Triton, convolutions by both."""
    steps = 4 if REHEARSING else 16 if small else 256
    serial, serial_back = Sweep(steps, 0, steps, steps), Sweep(steps, steps - 1, steps, steps, reverse=True)
    intervals, m = (2, 4) if small or REHEARSING else (64, 16)
    sweep, back = Sweep(intervals * m, 0, m, m - 1), Sweep(intervals * m, m - 1, m, m - 1, reverse=True)
    images = 2 if small or REHEARSING else 50
    size = 6 if REHEARSING else 28
    yield "a serial GRU in CUDA C++", partial(gru, 16 if REHEARSING else 256, 16, serial, serial_back, "anywhere")
    yield "sweeps of a GRU by Triton", partial(gru, 16 if REHEARSING else 128, 16, sweep, back, "nowhere")
    yield "sweeps of dense layers", partial(dense, 16 if REHEARSING else 64, images, sweep, back)
    yield "a sweep of convolutions in CUDA C++", partial(conv, 8, size, images, sweep, "anywhere")
    yield "a sweep of convolutions by Triton", partial(conv, 8, size, images, sweep, "nowhere")


def main() -> None:
    """Each once, and a line that says so."""
    torch.manual_seed(0)
    with fused():
        for name, run in hottest(small="--small" in sys.argv):
            run()
            if not REHEARSING:
                torch.cuda.synchronize()
            print(f"ran {name}", flush=True)


if __name__ == "__main__":
    main()
