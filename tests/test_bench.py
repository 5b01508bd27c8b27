"""The benchmarks that need a GPU, as far as they can be run without one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parent.parent / "bench"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(BENCH.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=BENCH.parent, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(autouse=True)
def bench_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


def test_estimates_need_no_gpu() -> None:
    done = run("bench/kernels.py", "--estimates", "H100", "--quick")
    assert done.returncode == 0, done.stderr
    assert "nothing here was measured" in done.stdout
    assert "| gru-sweep H=128 rows=4096 steps=4 bf16 |" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", [["bench/kernels.py"], ["bench/solver.py", "--device", "cuda"]])
def test_without_a_gpu_measuring_stops_at_once(command: list[str]) -> None:
    done = run(*command)
    assert done.returncode != 0
    assert "PyTorch finds no CUDA GPU here" in done.stderr


@pytest.mark.parametrize("operation", ["gru-sweep", "gru-adjoint-sweep", "dense-sweep", "dense-adjoint-sweep", "fas"])
def test_what_is_timed_is_what_is_checked(operation: str) -> None:
    """On a CPU both sides are the reference, fp32 against fp64."""
    from kernel_cases import cases  # pyright: ignore[reportMissingImports]

    case = next(each for each in cases("cpu", quick=True) if (each.operation, each.dtype) == (operation, torch.float32))
    assert 0 < case.error(case.make()) < case.allowed


@pytest.mark.parametrize("operation", ["gru-forward", "gru-adjoint"])
def test_a_march_has_a_reference_to_be_held_against(operation: str) -> None:
    from cuda_kernels import Case  # pyright: ignore[reportMissingImports]

    case = Case(operation=operation, width=16, batch=3, steps=5)
    inputs = case.inputs("cpu")
    assert case.run(None, case.poisoned(inputs)).isfinite().all()


def test_occupancy_counts_registers_threads_and_shared_memory() -> None:
    from machine import H100, occupancy  # pyright: ignore[reportMissingImports]

    assert occupancy(32, 0, 4, H100) == 16  # threads: 2048 / 128
    assert occupancy(128, 0, 8, H100) == 2  # registers: 65536 / (128 · 256)
    assert occupancy(121, 0, 8, H100) == 2  # allocated eight at a time
    assert occupancy(32, 114_688, 4, H100) == 2  # shared memory: two of 112 KiB and a reserve each
    assert occupancy(32, 116_000, 4, H100) == 1


def test_estimates_never_beat_the_limit() -> None:
    from kernel_cases import cases  # pyright: ignore[reportMissingImports]
    from machine import MACHINES, estimate  # pyright: ignore[reportMissingImports]
    from resources import resources_of  # pyright: ignore[reportMissingImports]

    for machine in MACHINES:
        for case in cases("cpu", quick=False):
            of_case = estimate(case.work, machine, **resources_of(case, machine.arch))
            assert of_case.seconds >= of_case.limit > 0, case.name
