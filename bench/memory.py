"""The most memory a training step takes: plain PyTorch, activation checkpoints, and MGRIT with all states or C-points.

python bench/memory.py [--layers 128] [--width 64] [--batch 2000]

A unit is one state, [batch, width]. Peaks are of what is allocated in forward + backward, the gradients of the
parameters included, the parameters not. A checkpoint every m layers keeps a state for m layers and recomputes these;
MGRIT runs two levels, 2/1 FCF V-cycles, which visit all layers at once and cost more evaluations.
"""

import argparse
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lpgpu import MGRIT, LayerParallel, Serial
from lpgpu.nn.memory import peak_bytes


class Block(nn.Module):
    """A feed-forward block of a transformer, which keeps six states for its backward."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, u: Tensor) -> Tensor:
        return self.down(nn.functional.gelu(self.up(self.norm(u))))


def with_checkpoints(layers: nn.Sequential, every: int) -> Callable[[Tensor], Tensor]:
    """The layers one after the other, of which a state is kept for `every` layers."""

    def forward(x: Tensor) -> Tensor:
        for first in range(0, len(layers), every):
            x = checkpoint(layers[first : first + every], x, use_reentrant=False)
        return x

    return forward


def peak_of(forward: Callable[[Tensor], Tensor], parameters: list[nn.Parameter], x: Tensor) -> float:
    """The peak of a training step, in states."""

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        forward(x).square().mean().backward()

    step()
    for parameter in parameters:
        parameter.grad = None
    return peak_bytes(step, x.device) / (x.numel() * x.element_size())


def rows(layers: int, width: int, batch: int) -> Iterator[tuple[str, float]]:
    """What runs, and its peak."""
    x = torch.randn(batch, width)
    net = LayerParallel(None, lambda: Block(width), layers, 1.0, solver=Serial())
    plain = net.to_sequential()
    yield "plain PyTorch", peak_of(plain, list(plain.parameters()), x)
    for every in (1, 4, 8, 16):
        forward = with_checkpoints(plain, every)
        yield f"a checkpoint every {every} layers", peak_of(forward, list(plain.parameters()), x)
    for m in (4, 8, 16):
        for options in ({"store": "all"}, {"store": "c_points"}, {"store": "c_points", "chunk": 2}):
            net.solver = MGRIT(levels=2, coarsening=m, iterations=2, adjoint_iterations=1, **options)
            named = ", ".join(f"{name}={value}" for name, value in options.items())
            yield f"MGRIT, m = {m}, {named}", peak_of(net, list(net.parameters()), x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 128), ("width", 64), ("batch", 2000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    for name, peak in rows(arguments.layers, arguments.width, arguments.batch):
        print(f"{name:<40} {peak:8.1f}", flush=True)


if __name__ == "__main__":
    main()
