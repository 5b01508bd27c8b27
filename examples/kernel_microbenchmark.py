"""How long one kernel takes: the relaxation sweep of a GRU, by its reference in PyTorch and, on a GPU, by fused Triton.

An F-relaxation moves all intervals of a sequence forward at once, from their first time step to their last. You see,
for several numbers of intervals, the median time of a sweep and the time per time step: 64 intervals take a few times
as long as one. This is where parallelism in time comes from.

    python examples/kernel_microbenchmark.py
"""

import statistics
import time

import torch

from lpgpu.kernels import dispatch
from lpgpu.kernels.implicit_gru import Cell, sweep
from lpgpu.kernels.sweep import Sweep


def median_seconds(call, device, repeats):
    """Of `repeats` calls, after two that compile kernels and fill caches."""
    seconds = []
    for repeat in range(repeats + 2):
        began = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()  # a kernel launch returns before the kernel has run
        if repeat >= 2:
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def main(units=32, batch=4, interval=16, intervals=(1, 4, 16, 64), repeats=20):
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cell = Cell(w=torch.randn(3 * units, units, device=device) / units**0.5, b=None, dt=1.0, formulation="classic")
    backends = ("reference", "fused") if device == "cuda" and dispatch.has_triton() else ("reference",)
    print(f"GRU sweep on {device}, {units} units, batch {batch}, intervals of {interval} time steps")
    print(f"{'backend':<12}{'intervals':>10}{'ms':>10}{'µs per time step':>20}")
    results = {}
    for count in intervals:
        length = count * interval
        h = torch.zeros(length + 1, batch, units, device=device)  # states of all points in time
        x = torch.randn(length, batch, 3 * units, device=device)  # W_i x + b_i, computed beforehand for all steps
        # Intervals at once, the steps inside of them one after another. The next interval's first state is not touched.
        through = Sweep(num_layers=length, first=0, interval=interval, steps=interval - 1)
        for backend in backends:
            with dispatch.backend(backend):
                seconds = median_seconds(lambda h=h, x=x, s=through: sweep(h, x, cell, s), device, repeats)
            print(f"{backend:<12}{count:>10}{1e3 * seconds:>10.3f}{1e6 * seconds / length:>20.1f}")
            results[backend, count] = h.cpu()
    if len(backends) > 1:
        worst = max((results["fused", n] - results["reference", n]).abs().max().item() for n in intervals)
        print(f"largest difference between the two: {worst:.0e}")


if __name__ == "__main__":
    main()
