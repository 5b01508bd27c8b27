"""Phases of CUDA C++ kernels, compiled for the CPU: equal to the references, and without races, without a GPU.

Under AddressSanitizer and UBSan over random shapes; under ThreadSanitizer, which must notice a barrier that is missing.
"""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpgpu.kernels.implicit_gru.cuda_march import ARGUMENTS
from tests.kernels.phases.marched import Example, built, difference, expected, ran

if shutil.which("g++") is None:
    pytest.skip("g++ is not installed", allow_module_level=True)

SANITIZERS = {"memory": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"], "threads": ["-fsanitize=thread"]}
OPERANDS = {"bf16": (torch.bfloat16, 2e-2), "tf32": (torch.float32, 5e-3), "tf32x3": (torch.float32, 5e-6)}
CASES = [(adjoint, operand) for adjoint in (False, True) for operand in OPERANDS]
LARGEST = 32  # units that the program's sizes hold in fp32


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The marches under each sanitizer, compiled side by side."""
    folders = {name: tmp_path_factory.mktemp(name) for name in SANITIZERS}
    with ThreadPoolExecutor() as pool:
        compiled = {n: pool.submit(built, "gru_march", folders[n], *flags) for n, flags in SANITIZERS.items()}
        return {name: each.result() for name, each in compiled.items()}


@pytest.fixture(scope="module")
def racing(programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program under ThreadSanitizer, where that runs."""
    done = subprocess.run([programs["threads"], "layout"], capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip(f"ThreadSanitizer does not run here: {done.stderr.strip()[:200]}")
    return programs["threads"]


examples = st.builds(
    Example,
    width=st.integers(1, LARGEST // 2).map(lambda half: 2 * half),
    intervals=st.integers(1, 3),
    batch=st.integers(1, 20),
    steps=st.just(3),
    last_steps=st.integers(1, 3),
    groups=st.just(1),
    implicit=st.booleans(),
    bias=st.booleans(),
    terms=st.booleans(),
    in_clusters=st.booleans(),
)


@pytest.mark.parametrize(("adjoint", "operand"), CASES)
@settings(max_examples=6)
@given(example=examples)
def test_march_is_the_reference(adjoint: bool, operand: str, example: Example, programs, tmp_path_factory) -> None:
    """Every access in bounds, and nothing undefined."""
    check(programs["memory"], adjoint, operand, example, tmp_path_factory.mktemp("march") / "tensors")


@pytest.mark.parametrize("in_clusters", [False, True])
@pytest.mark.parametrize(("adjoint", "operand"), [(False, "bf16"), (True, "bf16"), (True, "tf32x3")])
def test_march_has_no_race(adjoint: bool, operand: str, in_clusters: bool, racing: Path, tmp_path: Path) -> None:
    """Two tiles take turns in a block, two groups of blocks share three tiles."""
    example = Example(width=24, intervals=2, batch=18, last_steps=2, groups=2, terms=True, in_clusters=in_clusters)
    check(racing, adjoint, operand, example, tmp_path / "tensors")


@pytest.mark.parametrize("adjoint", [False, True])
def test_a_missing_barrier_is_a_race(adjoint: bool, racing: Path, tmp_path: Path) -> None:
    example = Example(width=32)
    tensors = example.tensors(adjoint, torch.bfloat16)
    with pytest.raises(RuntimeError, match="data race"):
        ran(racing, adjoint, "bf16", example, tensors, tmp_path / "tensors", "without-barriers")


def test_arguments_are_laid_out_as_in_cpp(programs: dict[str, Path]) -> None:
    done = subprocess.run([programs["memory"], "layout"], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) == ARGUMENTS.itemsize


def check(program: Path, adjoint: bool, operand: str, example: Example, file: Path) -> None:
    """Fails where the program's march is not the reference's."""
    dtype, tolerance = OPERANDS[operand]
    tensors = example.tensors(adjoint, dtype)
    came = ran(program, adjoint, operand, example, tensors, file)
    assert difference(came, expected(adjoint, example, tensors), example.last_steps) < tolerance
