"""Phases of the convolution sweeps in CUDA C++ on the CPU, as test_phases.py does it; and how they are launched."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpgpu.kernels import dispatch
from lpgpu.kernels.conv_step import cuda_sweep
from lpgpu.kernels.conv_step.cuda_sweep import ACTIVATIONS, CHANNELS, shared_bytes
from lpgpu.kernels.conv_step.layers import Filter, Saved
from lpgpu.kernels.cuda import choice, modules
from lpgpu.kernels.devices import shared_limit
from lpgpu.kernels.dispatch import KernelFallbackWarning
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms
from tests.kernels.phases.convolved import Example, expected, ran
from tests.kernels.phases.marched import difference
from tests.kernels.phases.programs import built, layout, why_not_watched

GCC = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
OPERANDS = {"bf16": (torch.bfloat16, 2e-2, (4, 8, 16)), "tf32x3": (torch.float32, 5e-6, (4, 8))}
CASES = [(adjoint, operand) for adjoint in (False, True) for operand in OPERANDS]

Programs = dict[tuple[str, str], Path]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return built(tmp_path_factory.mktemp("programs"), "conv_sweep")


@pytest.fixture(scope="module")
def racing(programs: Programs) -> Path:
    """The program under ThreadSanitizer, where that runs."""
    if reason := why_not_watched(programs["conv_sweep", "threads"]):
        pytest.skip(reason)
    return programs["conv_sweep", "threads"]


examples = st.builds(
    Example,
    channels=st.just(4),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    images=st.integers(1, 2),
    intervals=st.integers(1, 2),
    last_steps=st.integers(1, 2),
    convolutions=st.integers(1, 2),
    activation=st.sampled_from(ACTIVATIONS),
    bias=st.booleans(),
    terms=st.booleans(),
)


@GCC
@pytest.mark.parametrize(("adjoint", "operand"), CASES)
@settings(max_examples=5)
@given(example=examples)
def test_sweep_is_the_reference(
    adjoint: bool, operand: str, example: Example, programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every access in bounds, and nothing undefined."""
    file = tmp_path_factory.mktemp("sweep") / "tensors"
    check(programs["conv_sweep", "memory"], adjoint, operand, example, file)


@GCC
@pytest.mark.parametrize(("adjoint", "operand"), CASES)
def test_every_number_of_channels_is_the_reference(
    adjoint: bool, operand: str, programs: Programs, tmp_path: Path
) -> None:
    """One or several taps in a chunk, chunks within a tap; one place for filters, or two."""
    for channels in OPERANDS[operand][2]:
        example = Example(channels=channels, terms=True)
        check(programs["conv_sweep", "memory"], adjoint, operand, example, tmp_path / "tensors")


@GCC
@pytest.mark.parametrize(
    ("adjoint", "operand", "channels"), [(False, "bf16", 4), (True, "tf32x3", 4), (True, "bf16", 8)]
)
def test_sweep_has_no_race(adjoint: bool, operand: str, channels: int, racing: Path, tmp_path: Path) -> None:
    """Two warps share three tiles of pixels; one place for filters, or two."""
    example = Example(channels=channels, height=6, width=7, images=1 + (channels == 4), intervals=1, terms=True)
    check(racing, adjoint, operand, example, tmp_path / "tensors")


@GCC
@pytest.mark.parametrize("channels", [4, 8])
def test_a_missing_barrier_is_a_race(channels: int, racing: Path, tmp_path: Path) -> None:
    example = Example(channels=channels)
    tensors = example.tensors(False, torch.bfloat16)
    with pytest.raises(RuntimeError, match="data race"):
        ran(racing, False, "bf16", example, tensors, tmp_path / "tensors", barriers=False)


@GCC
def test_launches_are_laid_out_as_in_cpp(programs: Programs) -> None:
    blocks = [shared_bytes(8, "bf16", 28, 28), shared_bytes(64, "bf16", 14, 14), shared_bytes(32, "tf32x3", 14, 14)]
    assert layout(programs["conv_sweep", "memory"]) == [cuda_sweep.ARGUMENTS.itemsize, *blocks]


def check(program: Path, adjoint: bool, operand: str, example: Example, file: Path) -> None:
    """Fails where the program's sweep is not the reference's."""
    dtype, tolerance, _ = OPERANDS[operand]
    tensors = example.tensors(adjoint, dtype)
    came = ran(program, adjoint, operand, example, tensors, file)
    assert difference(came, expected(adjoint, example, tensors), example.last_steps) < tolerance


@pytest.mark.parametrize(
    ("arch", "operand", "most"),
    [(90, "bf16", (64, 32, 16, 16)), (90, "tf32x3", (32, 32, 8, 8)), (80, "bf16", (32, 32, 16, 8))],
)
def test_how_many_channels_fit_in_shared_memory(arch: int, operand: str, most: tuple[int, ...]) -> None:
    """Of images of 14, 16, 28 and 32 rows and columns."""
    compiled = CHANNELS[operand, OPERANDS[operand][0]]

    def fits(channels: int, size: int) -> bool:
        return shared_bytes(channels, operand, size, size) <= shared_limit(arch)

    assert tuple(max(c for c in compiled if fits(c, size)) for size in (14, 16, 28, 32)) == most


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An H100 with cubins, of which a multiprocessor holds `blocks` of a kernel; what is launched is told."""
    facts: dict[str, Any] = {"blocks": 132, "launched": []}
    monkeypatch.setattr(modules, "refusal", lambda *_: None)
    monkeypatch.setattr(modules, "function", lambda source, name, *_, **__: name)
    monkeypatch.setattr(modules, "resident_blocks", lambda *_: facts["blocks"])
    monkeypatch.setattr(modules, "launch", lambda *arguments: facts["launched"].append(arguments))
    monkeypatch.setattr(cuda_sweep, "arch_of", lambda _: 90)
    monkeypatch.setattr(dispatch, "_said", set())
    return facts


class OnGpu:
    """States [layers, images, C, Y, X] with channels innermost, as much of a CUDA tensor as a plan asks for."""

    def __init__(self, *shape: int, dtype: torch.dtype = torch.bfloat16, innermost: bool = True) -> None:
        layers, images, channels, height, width = shape
        made = torch.zeros(layers, images, height, width, channels, dtype=dtype).movedim(-1, 2)
        self.tensor = made if innermost else made.contiguous()
        self.device, self.itemsize = torch.device("cuda", 0), made.itemsize

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tensor, name)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.tensor[index]


def filters_of(layers: int, channels: int, convolutions: int = 2) -> list[Filter]:
    w = torch.zeros(layers, 3, 3, channels, channels, dtype=torch.bfloat16).permute(0, 4, 3, 1, 2)
    return [Filter(w, torch.zeros(layers, channels, dtype=torch.bfloat16)) for _ in range(convolutions)]


def planned(u: Any, sweep: Sweep | None = None, **other: Any) -> cuda_sweep.Plan | None:
    sweep = sweep or Sweep(12, 0, 4, 3)
    filters = other.pop("filters", filters_of(12, u.shape[2]))
    return cuda_sweep.plan_of("forward", u, filters, other.pop("activation", "tanh"), sweep, NO_TERMS, **other)


def test_sweeps_are_launched_where_they_are_asked_for(device: dict[str, Any]) -> None:
    u: Any = OnGpu(13, 5, 8, 28, 28)
    assert planned(u) is None, "it has not been measured"
    with choice.choice("anywhere"):
        plan = planned(u)
        assert plan == cuda_sweep.Plan("bf16", 8, shared_bytes(8, "bf16", 28, 28))
        assert planned(OnGpu(13, 5, 5, 28, 28)) is None and planned(OnGpu(13, 5, 64, 28, 28)) is None
        assert planned(u, Sweep(12, 0, 4, 1)) is None and planned(u, filters=filters_of(12, 8, 3)) is None
        with pytest.warns(KernelFallbackWarning, match="has not its channels innermost and no gaps; Triton's kernel"):
            assert planned(OnGpu(13, 5, 8, 28, 28, innermost=False)) is None
        device["blocks"] = 0
        with pytest.warns(KernelFallbackWarning, match="no multiprocessor holds a block of conv_forward_bf16_bf16_c8"):
            assert planned(u) is None


@pytest.mark.parametrize("kind", ["forward", "adjoint"])
@pytest.mark.skipif(not dispatch.has_triton(), reason="triton is not installed")
def test_a_sweep_with_a_plan_is_one_launch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lpgpu.kernels.conv_step import fused

    plan, swept = cuda_sweep.Plan("bf16", 8, 0), []
    monkeypatch.setattr(cuda_sweep, "plan_of", lambda *_: plan)
    monkeypatch.setattr(cuda_sweep, "sweep", lambda *arguments: swept.append(arguments))
    u, filters = torch.zeros(5, 2, 8, 6, 6, dtype=torch.bfloat16), filters_of(4, 8)
    if kind == "forward":
        fused.sweep(u, filters, 0.3, "tanh", Sweep(4, 0, 4, 4), NO_TERMS)
        reason = dispatch.reasons["conv_step.sweep"]
    else:
        fused.adjoint_sweep(u, Saved([u[1:]] * 2), filters, 0.3, "tanh", Sweep(4, 3, 4, 4, reverse=True), NO_TERMS)
        reason = dispatch.reasons["conv_step.adjoint_sweep"]
        assert len(swept[0][-1]) == 2
        swept[0] = swept[0][:-1]
    assert swept[0][-1] is plan and reason == "fused: in CUDA C++, one launch"


def test_a_launch_says_where_everything_is(device: dict[str, Any]) -> None:
    """A ragged last interval; points are one further than layers when marching forward."""
    u: Any = OnGpu(11, 5, 8, 28, 28)
    geometry, filters = Sweep(10, 0, 4, 3), filters_of(10, 8)
    g = u.tensor.clone()
    plan = cuda_sweep.Plan("bf16", 8, 60032)
    cuda_sweep.sweep(u, filters, 0.3, "silu", geometry, Terms(g), plan)
    name, grid, threads, shared, arguments, _ = device["launched"][0]
    assert (name, grid, threads, shared) == ("conv_forward_bf16_bf16_c8", (15, 1), 256, 60032)
    state, image = 5 * 8 * 28 * 28, 8 * 28 * 28
    assert arguments["source"].tolist() == (u[0].data_ptr(), 4 * state, state, image)
    assert arguments["target"].tolist() == (u[1].data_ptr(), 4 * state, state, image)
    assert arguments["g"].tolist() == (g[1].data_ptr(), 4 * state, state, image)
    assert arguments["delta"].tolist() == (0, 0, 0, 0)
    assert (arguments["num_rows"], arguments["images"], arguments["all_steps"], arguments["last_steps"]) == (
        15,
        5,
        3,
        2,
    )
    w = arguments["filters"][1]
    assert (w["w"]["start"], w["w"]["interval"], w["out"], w["in"], w["tap"]) == (
        filters[1].w.data_ptr(),
        4 * 576,
        1,
        8,
        64,
    )
    assert arguments["activation"] == 2 and arguments["convolutions"] == 2


def test_without_a_gpu_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    u = SimpleNamespace(device=torch.device("cpu"), shape=(13, 5, 8, 28, 28))
    with choice.choice("anywhere"):
        assert planned(u) is None
