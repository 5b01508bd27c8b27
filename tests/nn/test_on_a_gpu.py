"""Networks on a CUDA device: the CPU's numbers, by fused kernels only, without waiting for the device."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lpgpu import GRU, MGRIT, LayerParallel, Serial
from lpgpu.kernels import dispatch
from lpgpu.nn import ConvBlock, DenseBlock
from tests.assertions import relative_error
from tests.kernels.fused.inputs import some

pytestmark = pytest.mark.gpu

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "implicit GRU": (lambda: GRU(9, 100, num_layers=2, formulation="implicit"), (64, 10, 9)),
    "classic GRU, wide": (lambda: GRU(9, 300, formulation="classic", solver=Serial()), (20, 10, 9)),
    "dense": (lambda: LayerParallel(None, lambda: DenseBlock(64), 64, 1.0), (50, 64)),
    "dense, wide": (lambda: LayerParallel(None, lambda: DenseBlock(600, "smooth_relu"), 32, 1.0), (50, 600)),
    "convolution": (lambda: LayerParallel(None, lambda: ConvBlock(8, convolutions=2), 32, 1.0), (5, 8, 28, 28)),
    "any block": (lambda: LayerParallel(None, lambda: nn.Sequential(nn.Linear(8, 8), nn.Tanh()), 32, 1.0), (5, 8)),
}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


@pytest.fixture(autouse=True)
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slower path taken in place of a fused kernel is an error here."""
    monkeypatch.setenv("LPGPU_STRICT", "1")


@pytest.fixture
def no_waiting() -> Iterator[Callable[[], None]]:
    """Once called, whatever waits for the device raises."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


def derivatives(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    y = net(x)
    y = torch.cat([each.flatten() for each in y]) if isinstance(y, tuple) else y.flatten()
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device)
    (y * weights).sum().backward()
    assert x.grad is not None
    return {"output": y.detach(), "x": x.grad, **{n: p.grad for n, p in net.named_parameters() if p.grad is not None}}


@pytest.mark.parametrize("dtype", some([torch.float32, torch.bfloat16], torch.float64, torch.float16), ids=str)
@pytest.mark.parametrize("solver", [None, MGRIT(levels=2, coarsening=5, store="c_points")], ids=["default", "c_points"])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_same_numbers_as_on_a_cpu(network: str, solver: MGRIT | None, dtype: torch.dtype) -> None:
    build, shape = NETWORKS[network]
    net: Any = build()
    if solver is not None and isinstance(net.solver, MGRIT):
        net.solver = solver
    net, x = net.to(dtype), torch.randn(shape).to(dtype)
    expected = derivatives(copy.deepcopy(net).double(), x.double())
    dispatch.calls.clear()
    came = derivatives(net.cuda(), x.cuda())
    for name in expected:
        error = relative_error(came[name].double().cpu(), expected[name])
        assert error < TOLERANCE[dtype], f"{name} is off by {error:.1e}"
    if network != "any block":
        assert {backend for _, backend in dispatch.calls} == {"fused"}


@pytest.mark.parametrize("network", [name for name in NETWORKS if name != "any block"])
def test_training_never_waits_for_the_device(network: str, no_waiting: Callable[[], None]) -> None:
    build, shape = NETWORKS[network]
    net, x = build().cuda(), torch.randn(shape, device="cuda")
    derivatives(net, x)  # compiles
    torch.cuda.synchronize()
    no_waiting()
    derivatives(net, x)
    derivatives(net, x)


@pytest.mark.parametrize("network", ["implicit GRU", "dense", "convolution"])
def test_a_forward_pass_can_be_captured_in_a_cuda_graph(network: str) -> None:
    build, shape = NETWORKS[network]
    net, x = build().cuda(), torch.randn(shape, device="cuda")
    stream = torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):
            net(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph, stream=stream):
        y = net(x)
    x.normal_()
    graph.replay()
    with torch.no_grad():
        expected = net(x)
    y, expected = (each[0] if isinstance(each, tuple) else each for each in (y, expected))
    assert relative_error(y, expected) < 1e-6
