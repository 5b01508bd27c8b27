"""Where the time of a training step goes, how much work its solves are, and which operators take most time.

You see the seconds of the parts of a step, by lpgpu.profiling.Timings, and the operators that took most of them, by
torch.profiler. It also writes trace.json, a timeline that https://ui.perfetto.dev shows in a browser.

    python examples/profile_a_step.py
    nsys profile --trace=cuda,nvtx python examples/profile_a_step.py    # on a GPU: the same parts as NVTX ranges
"""

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from lpgpu import MGRIT, LayerParallel
from lpgpu.nn import DenseBlock
from lpgpu.profiling import Timings


def main(layers=256, steps=5, trace="trace.json"):
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    deep = LayerParallel(None, lambda: DenseBlock(32), layers, Tf=2.0, solver=MGRIT(levels=2, coarsening=16))
    net = nn.Sequential(nn.Linear(2, 32), deep, nn.Linear(32, 2)).to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    x = torch.randn(64, 2, device=device)
    y = (x[:, 0] > 0).long()

    def step(part):
        """One training step; `part(name)` is a context that measures what happens inside it."""
        optimizer.zero_grad()
        with part("forward"):
            loss = nn.functional.cross_entropy(net(x), y)
        with part("backward"):
            loss.backward()
        with part("optimizer"):
            optimizer.step()

    for _ in range(2):  # the first steps compile, allocate and, on a GPU, record CUDA graphs: leave them out
        step(record_function)

    timings = Timings(device)  # on a GPU it uses CUDA events, and waits for nothing until seconds() is read
    for _ in range(steps):
        step(timings)
    total = sum(timings.seconds().values())
    for name, seconds in timings.seconds().items():
        print(f"{name:<12}{1e3 * seconds / steps:>8.2f} ms a step {seconds / total:>6.0%}")
    for name, solve in (("forward", deep.forward_result), ("adjoint", deep.adjoint_result)):
        print(f"{name} solve: {solve.evaluations} layer evaluations on levels 0, 1; sequential depth", end=" ")
        print(f"{solve.sequential_depth} instead of {layers}")

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    with profile(activities=activities) as profiler:
        step(record_function)
    table = profiler.key_averages()
    by = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    print("operators that took most time:")
    operators = [row for row in table if row.key.startswith("aten::")]
    for row in sorted(operators, key=lambda row: -getattr(row, by))[:5]:
        print(f"  {row.key:<24}{row.count:>6} calls")
    profiler.export_chrome_trace(trace)
    print(f"timeline: {trace}")


if __name__ == "__main__":
    main()
