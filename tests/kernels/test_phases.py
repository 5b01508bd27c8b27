"""Phases of CUDA C++ kernels, compiled for the CPU: equal to the references, and without races, without a GPU.

Those of convolutions are in test_convolution_phases.py.

Under AddressSanitizer and UBSan over random shapes; under ThreadSanitizer, which must notice a barrier that is missing.
"""

import shutil
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpgpu.kernels.affine_scan import cuda_scan, reference
from lpgpu.kernels.implicit_gru import cuda_march
from lpgpu.kernels.implicit_gru.cuda_march import Plan
from tests.assertions import relative_error
from tests.kernels.phases.marched import Example, difference, expected, ran
from tests.kernels.phases.programs import built, layout, run, why_not_watched

if shutil.which("g++") is None:
    pytest.skip("g++ is not installed", allow_module_level=True)

Programs = dict[tuple[str, str], Path]

OPERANDS = {"bf16": (torch.bfloat16, 2e-2), "tf32": (torch.float32, 5e-3), "tf32x3": (torch.float32, 5e-6)}
CASES = [(adjoint, operand) for adjoint in (False, True) for operand in OPERANDS]
LARGEST = 32  # units that the program's sizes hold in fp32


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return built(tmp_path_factory.mktemp("programs"), "gru_march", "affine_scan")


@pytest.fixture(scope="module")
def racing(programs: Programs) -> dict[str, Path]:
    """The programs under ThreadSanitizer, where that runs."""
    found = {name: program for (name, sanitizer), program in programs.items() if sanitizer == "threads"}
    if reason := why_not_watched(found["gru_march"]):
        pytest.skip(reason)
    return found


examples = st.builds(
    Example,
    width=st.integers(1, LARGEST // 2).map(lambda half: 2 * half),
    intervals=st.integers(1, 3),
    batch=st.integers(1, 20),
    steps=st.just(3),
    last_steps=st.integers(1, 3),
    implicit=st.booleans(),
    bias=st.booleans(),
    terms=st.booleans(),
    in_clusters=st.booleans(),
)


@pytest.mark.parametrize(("adjoint", "operand"), CASES)
@settings(max_examples=6)
@given(example=examples)
def test_march_is_the_reference(
    adjoint: bool, operand: str, example: Example, programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every access in bounds, and nothing undefined."""
    check(programs["gru_march", "memory"], adjoint, operand, example, tmp_path_factory.mktemp("march") / "tensors")


@pytest.mark.parametrize("in_clusters", [False, True])
@pytest.mark.parametrize(("adjoint", "operand"), [(False, "bf16"), (True, "bf16"), (True, "tf32x3")])
def test_march_has_no_race(
    adjoint: bool, operand: str, in_clusters: bool, racing: dict[str, Path], tmp_path: Path
) -> None:
    """Two tiles take turns in a block, two groups of blocks share three tiles."""
    example = Example(width=24, intervals=2, batch=18, last_steps=2, groups=2, terms=True, in_clusters=in_clusters)
    check(racing["gru_march"], adjoint, operand, example, tmp_path / "tensors")


@pytest.mark.parametrize("adjoint", [False, True])
def test_a_missing_barrier_in_a_march_is_a_race(adjoint: bool, racing: dict[str, Path], tmp_path: Path) -> None:
    example = Example(width=32)
    tensors = example.tensors(adjoint, torch.bfloat16)
    with pytest.raises(RuntimeError, match="data race"):
        ran(racing["gru_march"], adjoint, "bf16", example, tensors, tmp_path / "tensors", barriers=False)


@settings(max_examples=12)
@given(
    columns=st.integers(1, 40),
    intervals=st.integers(1, 2),
    steps=st.integers(1, 30),
    parts=st.integers(1, 5),
    decays=st.booleans(),
)
def test_scan_is_the_reference(
    columns: int, intervals: int, steps: int, parts: int, decays: bool, programs: Programs,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    """More steps than a round of all blocks, spans that end early or have none."""
    program = programs["affine_scan", "memory"]
    assert scan_error(program, columns, intervals, steps, parts, decays, tmp_path_factory.mktemp("s") / "t") < 1e-5


@pytest.mark.parametrize("parts", [1, 5])
def test_scan_has_no_race(parts: int, racing: dict[str, Path], tmp_path: Path) -> None:
    """Three rounds, and part of a fourth."""
    assert scan_error(racing["affine_scan"], 40, 1, 3 * 4 * parts + 2, parts, True, tmp_path / "tensors") < 1e-5


@pytest.mark.parametrize("parts", [1, 3])
def test_a_missing_barrier_in_a_scan_is_a_race(parts: int, racing: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="data race"):
        scan_error(racing["affine_scan"], 32, 1, 4 * parts, parts, True, tmp_path / "tensors", barriers=False)


def test_launches_are_laid_out_as_in_cpp(programs: Programs) -> None:
    """Arguments byte for byte, and shared memory."""
    in_grid = Plan("bf16", 8, 2, 16, ranks=4, groups=1, tiles=2, in_clusters=False)
    in_cluster = Plan("bf16", 8, 2, 16, ranks=4, groups=1, tiles=2, in_clusters=True)
    marches = [in_grid.shared_bytes(64, adjoint=False), in_cluster.shared_bytes(64, adjoint=True)]
    assert layout(programs["gru_march", "memory"]) == [cuda_march.ARGUMENTS.itemsize, *marches]
    scans = [cuda_scan.shared_bytes(dtype) for dtype in (torch.float32, torch.float64)]
    assert layout(programs["affine_scan", "memory"]) == [cuda_scan.ARGUMENTS.itemsize, *scans]


def check(program: Path, adjoint: bool, operand: str, example: Example, file: Path) -> None:
    """Fails where the program's march is not the reference's."""
    dtype, tolerance = OPERANDS[operand]
    tensors = example.tensors(adjoint, dtype)
    came = ran(program, adjoint, operand, example, tensors, file)
    assert difference(came, expected(adjoint, example, tensors), example.last_steps) < tolerance


def scan_error(
    program: Path, columns: int, intervals: int, steps: int, parts: int, decays: bool, file: Path, **options: bool
) -> float:
    """Relative, of a scan by a program; its states are NaN before."""
    v = torch.full((intervals, steps + 1, columns), torch.nan)
    v[:, 0] = torch.randn(intervals, columns)
    given = [torch.randn(intervals, steps, columns) for _ in range(2)]
    if decays:
        given.append(torch.rand(intervals, steps, columns) * 2 - 1)
    head = struct.pack("5i", columns, intervals, steps, parts, decays)
    came = run(program, [], head, [v, *given], file, **options).reshape(v.shape)
    phi, anchors, decay = (*(each.double() for each in given), None)[:3]
    wanted = v.double()
    reference.affine_scan(wanted, phi, anchors, decay, reverse=False)
    return relative_error(came, wanted)
