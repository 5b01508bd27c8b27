"""Training steps of whole networks on a GPU that is not there: fused kernels only, legal launches, no waiting."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import nn

from lpgpu import GRU, MGRIT, LayerParallel, Serial
from lpgpu.kernels import dispatch
from lpgpu.kernels.cuda import modules
from lpgpu.kernels.devices import shared_limit
from lpgpu.kernels.dispatch import KernelFallbackWarning
from lpgpu.kernels.implicit_gru import cuda_march
from lpgpu.nn import ConvBlock, DenseBlock
from tests.kernels.fake_gpu.gpu import FakeGPU, fake_gpu, on_fake_gpu


def layers(block: Callable[[], nn.Module], steps: int) -> nn.Module:
    return LayerParallel(None, block, steps, 1.0)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "implicit GRU": (lambda: GRU(9, 32, num_layers=2, formulation="implicit"), (65, 10, 9)),
    "implicit GRU, 100 wide": (lambda: GRU(9, 100, bidirectional=True, formulation="implicit"), (65, 10, 9)),
    "classic GRU, wide": (lambda: GRU(9, 300, formulation="classic", bias=False), (20, 10, 9)),
    "dense": (lambda: layers(lambda: DenseBlock(64), 64), (50, 64)),
    "dense, odd": (lambda: layers(lambda: DenseBlock(7, "tanh"), 33), (5, 7)),
    "dense, wide": (lambda: layers(lambda: DenseBlock(600, "smooth_relu"), 32), (50, 600)),
    "convolution": (lambda: layers(lambda: ConvBlock(8), 32), (5, 8, 28, 28)),
    "two convolutions": (lambda: layers(lambda: ConvBlock(5, activation="tanh", convolutions=2), 17), (3, 5, 9, 11)),
}
SOLVERS = {
    "default": MGRIT(cuda_graph=False),
    "c_points": MGRIT(levels=2, coarsening=5, store="c_points", cuda_graph=False),
    "serial": Serial(),
    "picard": MGRIT(coarse_operator="picard", cuda_graph=False),
    "picard of order 2": MGRIT(coarse_operator="picard", picard_order=2, store="c_points", cuda_graph=False),
    "linear": MGRIT(coarse_operator="linear", cuda_graph=False),
    "F-cycle": MGRIT(cycle="F", levels=4, coarsening=2, relaxation="F", initial_guess="constant", cuda_graph=False),
}


def train_step(network: str, solver: str, dtype: torch.dtype, arch: int) -> FakeGPU:
    build, shape = NETWORKS[network]
    net = build()
    for part in net.modules():
        if isinstance(part, GRU | LayerParallel):
            part.solver = SOLVERS[solver]
    return trained(net, shape, dtype, arch)


def trained(net: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, arch: int = 90) -> FakeGPU:
    """The GPU after a training step there."""
    with fake_gpu(arch) as gpu:
        gpu.train_step(on_fake_gpu(net, dtype), torch.empty(shape, dtype=dtype, device="cuda"))
    return gpu


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
CASES = [*itertools.product(SOLVERS, DTYPES[2:3], [90]), *itertools.product(["default"], DTYPES, [80])]


@pytest.mark.parametrize(("solver", "dtype", "arch"), CASES)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_training_step(network: str, solver: str, dtype: torch.dtype, arch: int) -> None:
    dispatch.calls.clear()
    gpu = train_step(network, solver, dtype, arch)
    assert gpu.launches and gpu.solves
    assert {backend for _, backend in dispatch.calls} == {"fused"}


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: GRU(64, 1024, formulation="implicit"), (2048, 4096, 64)),
        (lambda: layers(lambda: DenseBlock(1024), 256), (100_000, 1024)),
        (lambda: layers(lambda: ConvBlock(64, convolutions=2), 256), (1024, 64, 56, 56)),
    ],
    ids=["GRU", "dense", "convolution"],
)
def test_grids_of_large_networks_are_launched(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    assert trained(build(), shape, torch.bfloat16).launches


COMPILED = [
    *itertools.product(NETWORKS, ["default"], [(torch.float32, 90), (torch.bfloat16, 80)]),
    *itertools.product(["dense, odd", "dense, wide"], ["picard"], [(torch.bfloat16, 90)]),
    ("dense", "picard of order 2", (torch.float32, 80)),
]


@pytest.mark.parametrize(("network", "solver", "gpu"), COMPILED)
def test_what_is_launched_compiles(network: str, solver: str, gpu: tuple[torch.dtype, int]) -> None:
    dtype, arch = gpu
    launches = train_step(network, solver, dtype, arch).launches
    for launch in {launch.specialisation(): launch for launch in launches}.values():
        binary = launch.binary(arch)
        assert binary.metadata.shared <= shared_limit(arch), launch.specialisation()
        assert binary.asm["cubin"]


@pytest.mark.parametrize(("arch", "marches"), [(90, 2), (80, 0)])
def test_a_serial_gru_marches_in_cuda_where_that_was_measured(
    arch: int, marches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forward and an adjoint one, for 512 steps by Triton; how they are launched is in test_cuda_choice.py."""
    marched = []
    monkeypatch.setattr(cuda_march, "refusal", lambda *_: None)
    monkeypatch.setattr(cuda_march, "too_large", lambda *_: None)
    for kind in ("sweep", "adjoint_sweep"):
        monkeypatch.setattr(cuda_march, kind, lambda *arguments: marched.append(arguments[-1]))
    gpu = trained(GRU(9, 256, solver=Serial()), (256, 16, 9), torch.bfloat16, arch)
    assert len(marched) == marches
    by_steps = [each for each in gpu.launches if "sweep" in each.kernel.__name__ or "tiled" in each.kernel.__name__]
    assert len(by_steps) > 512 if arch == 80 else len(by_steps) < 10


def test_without_cupy_a_march_is_missed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "has_cupy", lambda: False)
    with pytest.warns(KernelFallbackWarning, match="CuPy is not installed .*; Triton's kernel runs instead") as said:
        trained(GRU(9, 256, solver=Serial()), (256, 16, 9), torch.bfloat16)
    assert len(said) == 1


class Ragged(nn.Module):
    """A GRU of sequences of different lengths, which the GPU knows."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = GRU(9, 32, num_layers=2, bidirectional=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(x, lengths=torch.empty(10, dtype=torch.int64, device="cuda"))[0]


def test_lengths_on_the_gpu_wait_for_nothing() -> None:
    assert trained(Ragged(), (65, 10, 9), torch.float32).launches


def test_what_would_wait_is_noticed() -> None:
    with fake_gpu():
        x = torch.empty(3, device="cuda")
        for wait in (lambda: x.cpu(), lambda: x.sum().item(), lambda: bool(x.isfinite().all()), lambda: x.tolist()):
            with pytest.raises((AssertionError, RuntimeError)):
                wait()


class Autocast(nn.Module):
    """A GRU in fp32 inside torch.autocast."""

    def __init__(self, dtype: torch.dtype, solver: str) -> None:
        super().__init__()
        self.gru = GRU(9, 32, num_layers=2, bidirectional=True, solver=SOLVERS[solver])
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cuda", self.dtype):
            output, h_n = self.gru(x)
        assert output.dtype == h_n.dtype == self.dtype
        return output


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("solver", ["default", "c_points", "serial", "linear"])
def test_under_autocast_kernels_take_all_of_a_gru_in_its_dtype(
    solver: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.amp.autocast_mode.torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_: True)
    dispatch.calls.clear()
    launches = trained(Autocast(dtype, solver), (65, 10, 9), torch.float32).launches
    assert {backend for _, backend in dispatch.calls} == {"fused"}
    of_gru = [launch for launch in launches if launch.kernel.__name__.startswith("gru")]
    tensors = [each for launch in of_gru for each in launch.arguments if isinstance(each, torch.Tensor)]
    assert {each.dtype for each in tensors if each.is_floating_point()} == {dtype}


class Resetting(nn.Module):
    """A GRU with new sequences inside its rows."""

    def __init__(self, solver: str) -> None:
        super().__init__()
        self.gru = GRU(9, 32, bidirectional=True, solver=SOLVERS[solver])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(x, resets=torch.empty(65, 10, dtype=torch.bool, device="cuda"))[0]


@pytest.mark.parametrize("solver", ["default", "c_points", "picard"])
def test_resets_wait_for_nothing_and_are_left_to_single_steps(solver: str) -> None:
    """No kernel that takes several steps in a launch knows of them."""
    launches = trained(Resetting(solver), (65, 10, 9), torch.float32).launches
    names = {launch.kernel.__name__ for launch in launches}
    of_gru = {name for name in names if name.startswith("gru")}
    assert of_gru - {"gru_diagonal"} == {"gru_step_tiled", "gru_adjoint_tiled", "gru_gate_gradients"}
