"""The benchmarks that need a GPU, as far as they can be run without one."""

import importlib.util
import json
import math
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


TIMED = ["gru-sweep", "gru-adjoint-sweep", "dense-sweep", "dense-adjoint-sweep", "fas"]
TIMED += [f"{kind}-picard{adjoint}" for kind in ("dense", "gru", "conv") for adjoint in ("", "-adjoint")]


@pytest.mark.parametrize("operation", TIMED)
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


CODE = """
.L_x_0:
        /*0010*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        /*0020*/                   LDSM.16.M88.4 R4, [R0] ;
        /*0030*/               @P0 HMMA.16816.F32.BF16 R8, R4, R6, R8 ;
        /*0040*/                   MUFU.EX2 R9, R9 ;
        /*0050*/                   STS.64 [R0], R8 ;
        /*0060*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0070*/               @P1 BRA `(.L_x_1) ;
        /*0080*/                   STG.E [R2.64], R8 ;
        /*0090*/               @P2 BRA `(.L_x_0) ;
"""


def test_the_innermost_loop_is_what_is_counted() -> None:
    from instructions import Mix, innermost_loop, mix_of  # pyright: ignore[reportMissingImports]

    assert innermost_loop(CODE) == Mix(issued=6, matrix=1, special=1, barriers=1, shared_cycles=4 + 2)
    assert mix_of(CODE.splitlines()).issued == 9
    assert innermost_loop("        /*0010*/                   EXIT ;").issued == 1


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="what is interpreted cannot be compiled")
def test_explanations_bracket_and_stand_beside_what_was_measured(tmp_path: Path) -> None:
    rows = tmp_path / "kernels.jsonl"
    rows.write_text(json.dumps({"name": "gru-serial H=128 batch=16 steps=256 bf16", "times": {"p50": 5.662e-4}}) + "\n")
    done = run("bench/explain.py", "--quick", "--only", "gru-serial,fas", "--measured", str(rows))
    assert done.returncode == 0, done.stderr
    table = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith(("| gru", "| fas"))]
    assert len(table) == 4
    for _, _, between, most, cycles in table:
        least, greatest = map(float, between.split(" – "))
        assert 0 < least <= greatest and most in cycles
    serial = next(line for line in table if line[0].endswith("steps=256 bf16"))
    assert serial[1] == "566.2" and serial[4].startswith("256 × ") and "special" in serial[4]


def test_the_model_of_cuda_kernels_agrees_with_what_an_h100_measured() -> None:
    """Of every march in a grid and every scan within a factor of 2.2, and by a geometric mean of 1.35."""
    import explain_cuda  # pyright: ignore[reportMissingImports]
    from cuda_kernels import cases  # pyright: ignore[reportMissingImports]
    from machine import H100  # pyright: ignore[reportMissingImports]

    from lpgpu.kernels.implicit_gru.cuda_march import Plan

    by_name, off = {case.name: case for case in cases(quick=False)}, []
    for line in (BENCH / "results" / "h100-graphs" / "cuda.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "seconds" not in row or row.get("plan", {}).get("in_clusters"):
            continue
        case, plan = by_name[row["case"]], row.get("plan")
        model = explain_cuda.march(case, Plan(**plan), H100) if plan else explain_cuda.explained(case, H100)
        off.append(abs(math.log(model.seconds / row["seconds"]["p50"])))
    assert len(off) == 135 and max(off) < math.log(2.2) and sum(off) / len(off) < math.log(1.35)


def test_kernels_in_cuda_are_explained() -> None:
    results = BENCH / "results" / "h100-graphs" / "cuda.jsonl"
    done = run("bench/explain.py", "--quick", "--only", "gru-forward,conv-forward,affine-scan", "--cuda", str(results))
    assert done.returncode == 0, done.stderr
    table = {row[0]: row[1:] for row in (line.split(" | ") for line in done.stdout.splitlines()) if len(row) == 5}
    measured, _, _, cycles = table["| gru-forward H=512 batch=16 steps=256 bf16"]
    assert measured == "395.1" and cycles.startswith("256 × (trip 1000")
    measured, model, most, _ = table["| conv-forward C=8 28x28 images=50 intervals=1 steps=64 bfloat16"]
    assert measured == "" and float(model) > 0 and most in ("shared", "issue")


def test_the_report_has_every_table(tmp_path: Path) -> None:
    """Of rows that were measured, and of stages that these are too old for."""
    results = BENCH / "results" / "h100-graphs"
    for file in results.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    times = {"eager": {"p50": 0.002}, "graph": {"p50": 0.001}}
    rows = {
        "trained": [{"item": "trained GRU T=128", "dtype": "bf16", "solver": "Serial()", "eager": 0.003}],
        "serial": [
            {"item": "serial GRU", "error": 0.1, "cuDNN / ours": 2.0, "ours": times, "by Triton": times, "cuDNN": times}
        ],
    }
    for stage, some in rows.items():
        (tmp_path / f"{stage}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    done = run("bench/gpu_report.py", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "| GRU T=128 bf16 | Serial() |  |  | 3.00 |" in done.stdout
    assert "| GRU | 1.0e-01 | 2.00 | 1.00 | 2.00 | 1.00 | 2.00 | 1.00 | 2.00 |" in done.stdout
    assert "| gru-forward H=512 batch=16 steps=256 bf16 | 395.1 | – | 1813.1 | 4.6 |" in done.stdout
