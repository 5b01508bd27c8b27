"""Nothing is left of models that are dropped, nor of steps that are over: objects, tensors, the process's memory."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lpgpu import GRU, LSTM, MGRIT, LayerParallel, Recurrent, Serial, parallelize, unparallelize
from lpgpu.nn import ConvBlock, DenseBlock, resnet_ode

MGRIT_ONCE = MGRIT(levels=2, coarsening=2, iterations=1, adjoint_iterations=1)
C_POINTS = MGRIT(levels=2, coarsening=2, iterations=1, adjoint_iterations=1, store="c_points")
MIB = 2**20


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.1))


def parallelized() -> nn.Module:
    model = nn.Sequential(nn.Sequential(*(nn.Linear(8, 8) for _ in range(6))))
    parallelize(model, "0", solver=MGRIT_ONCE)
    return model


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": (lambda: LayerParallel(None, lambda: DenseBlock(8), 6, 1.0, solver=MGRIT_ONCE), (2, 8)),
    "dense, C-points": (lambda: LayerParallel(None, lambda: DenseBlock(8), 6, 1.0, solver=C_POINTS), (2, 8)),
    "convolutions": (lambda: LayerParallel(None, lambda: ConvBlock(2), 6, 1.0, solver=MGRIT_ONCE), (1, 2, 4, 4)),
    "any block, buffers": (lambda: LayerParallel(None, normed, 6, 1.0, solver=MGRIT_ONCE, buffer=(1, 1)), (4, 8)),
    "any block, C-points": (lambda: LayerParallel(None, normed, 6, 1.0, solver=C_POINTS), (4, 8)),
    "serial": (lambda: LayerParallel(None, normed, 6, 1.0, solver=Serial()), (4, 8)),
    "parallelized": (parallelized, (2, 8)),
    "stages": (lambda: resnet_ode(2, in_channels=1, widths=(2,), blocks=4, solver=MGRIT_ONCE), (2, 1, 4, 4)),
    "GRU": (lambda: GRU(8, 4, solver=MGRIT_ONCE), (6, 2, 8)),
    "LSTM": (lambda: LSTM(8, 4, solver=MGRIT_ONCE), (6, 2, 8)),
    "any cell": (lambda: Recurrent(nn.RNNCell(8, 4), solver=MGRIT_ONCE), (6, 2, 8)),
}


def step(net: nn.Module, x: Tensor) -> None:
    """Forward and backward; the gradients stay."""
    y = net(x)
    (y[0] if isinstance(y, tuple) else y).square().mean().backward()


def resident() -> int:
    """Bytes of this process's memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def counted() -> tuple[int, int]:
    """Tensors that are alive, and nodes of autograd's graphs that Python knows."""
    gc.collect()
    kinds = [type(each) for each in gc.get_objects()]
    node = torch.autograd.function.BackwardCFunction
    return sum(issubclass(kind, Tensor) for kind in kinds), sum(issubclass(kind, node) for kind in kinds)


def assert_flat(run: Callable[[], Any], times: int, warm_up: int = 20) -> None:
    """Fails unless objects and memory are after `times` runs what they were after the first few."""
    for _ in range(warm_up):
        run()
    before, memory = counted(), resident()
    for _ in range(times):
        run()
    assert counted() == before
    assert resident() - memory < 8 * MIB


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_dropped_model_leaves_nothing(kind: str) -> None:
    """By its references alone, without the collector of cycles."""
    build, shape = NETWORKS[kind]
    net, x = build(), torch.randn(*shape)
    step(net, x)
    parts = [weakref.ref(part) for part in net.modules()]
    parameters = [weakref.ref(theta) for theta in net.parameters()]
    gc.collect()
    gc.disable()
    try:
        del net
        assert not [ref() for ref in parts + parameters if ref() is not None]
    finally:
        gc.enable()


def test_a_thousand_models() -> None:
    """Of 64 KiB of weights each: what one leaves behind would be 62 MiB."""
    x, sequence = torch.randn(1, 64), torch.randn(4, 1, 64)

    def run() -> None:
        step(LayerParallel(None, lambda: DenseBlock(64), 4, 1.0, solver=MGRIT_ONCE), x)
        step(GRU(64, 64, solver=MGRIT_ONCE), sequence)

    assert_flat(run, 500)


@pytest.mark.parametrize("kind", ["dense", "GRU"])
def test_a_thousand_steps(kind: str) -> None:
    build, shape = NETWORKS[kind]
    net, x = build(), torch.randn(*shape)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)

    def run() -> None:
        step(net, x)
        optimizer.step()
        optimizer.zero_grad()

    assert_flat(run, 1000)


@pytest.mark.parametrize("kind", NETWORKS)
def test_models_and_steps_of_every_kind(kind: str) -> None:
    """A few: what one of them keeps shows in the count."""
    build, shape = NETWORKS[kind]
    net, x = build(), torch.randn(*shape)
    assert_flat(lambda: step(build(), x), 3, warm_up=1)
    assert_flat(lambda: step(net, x), 3, warm_up=1)


@pytest.mark.parametrize("kind", ["dense", "any block, buffers", "GRU"])
def test_forwards_whose_graph_is_never_walked(kind: str) -> None:
    build, shape = NETWORKS[kind]
    net, x = build(), torch.randn(*shape)
    assert_flat(lambda: net(x), 20, warm_up=2)


def test_models_that_are_parallelized_and_back() -> None:
    model, x = nn.Sequential(nn.Sequential(*(nn.Linear(8, 8) for _ in range(6)))), torch.randn(2, 8)

    def run() -> None:
        parallelize(model, "0", solver=MGRIT_ONCE)
        step(model, x)
        unparallelize(model, "0")

    assert_flat(run, 10, warm_up=2)
